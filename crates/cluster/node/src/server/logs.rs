//! Logs of a container, as they were written.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::query::Query;
use super::status::Refusal;
use super::{Body, StreamServer};
use crate::runtime::{Container, ContainerState, LogLine, LogOptions, Output};

impl StreamServer {
    pub(super) async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let wanted = Wanted::parse(query, SystemTime::now())?;
        let attempts = self.attempts(namespace, pod, container).await?;
        let mut started = attempts.iter().filter(|attempt| has_log(attempt));
        let newest = started.next();
        let waits_for = (self.waiting)(namespace, pod, container);
        let chosen = if wanted.is_previous {
            // While a container waits to be started again, the one that ended
            // last is the previous one.
            let ended = newest
                .filter(|newest| waits_for.is_some() && newest.state == ContainerState::Exited);
            ended.or_else(|| started.next()).ok_or_else(|| {
                bad(format!(
                    "previous terminated container \"{container}\" in pod \"{pod}\" not found"
                ))
            })?
        } else {
            newest.ok_or_else(|| {
                let reason = waits_for.unwrap_or_else(|| "ContainerCreating".to_owned());
                bad(format!(
                    "container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"
                ))
            })?
        };
        let lines = self.runtime.logs(&chosen.id, wanted.options).await?;
        let mut print = Print::new(wanted.stamps, wanted.limit);
        let pieces = lines.map(move |line| print.line(line));
        let body = until_last(pieces).map(|bytes| Ok(Frame::data(bytes)));
        let mut response = Response::new(StreamBody::new(body).boxed_unsync());
        let text = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, text);
        Ok(response)
    }
}

fn bad(message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

/// Whether the program was started, or failed to.
fn has_log(attempt: &Container) -> bool {
    matches!(
        attempt.state,
        ContainerState::Running | ContainerState::Exited
    ) || attempt.started.is_some()
}

/// Ends the stream with the piece that says so: nobody waits for a line after
/// it.
fn until_last(
    pieces: impl futures_util::Stream<Item = Piece> + Send + 'static,
) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
    futures_util::stream::unfold(Some(Box::pin(pieces)), |pieces| async move {
        let mut pieces = pieces?;
        let piece = pieces.next().await?;
        let rest = (!piece.is_last).then_some(pieces);
        Some((piece.bytes, rest))
    })
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    options: LogOptions,
    is_previous: bool,
    stamps: Stamps,
    limit: Option<u64>,
}

/// Whether lines begin with their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamps {
    Shown,
    Hidden,
}

impl Wanted {
    fn parse(query: &Query, now: SystemTime) -> Result<Self, Refusal> {
        let seconds: Option<u64> = query.value("sinceSeconds")?;
        let time: Option<jiff::Timestamp> = query.value("sinceTime")?;
        let since = match (seconds, time) {
            (Some(_), Some(_)) => {
                return Err(bad(
                    "at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned(),
                ));
            }
            (Some(seconds), None) => Some(
                now.checked_sub(Duration::from_secs(seconds))
                    .unwrap_or(SystemTime::UNIX_EPOCH),
            ),
            (None, time) => time.map(system_time),
        };
        let stamps = if query.is_on("timestamps") {
            Stamps::Shown
        } else {
            Stamps::Hidden
        };
        Ok(Self {
            options: LogOptions {
                tail: query.value("tailLines")?,
                since,
                follow: query.is_on("follow"),
            },
            is_previous: query.is_on("previous"),
            stamps,
            limit: query.value("limitBytes")?,
        })
    }
}

/// A moment as the runtime counts; one before 1970 is all the time there was.
fn system_time(time: jiff::Timestamp) -> SystemTime {
    let nanoseconds = u64::try_from(time.as_nanosecond()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

/// A piece of the answer.
struct Piece {
    bytes: Bytes,
    is_last: bool,
}

/// Makes text of lines.
struct Print {
    stamps: Stamps,
    left: Option<u64>,
    /// Whether the last piece of output and of errors ended its line.
    is_at_start: [bool; 2],
}

impl Print {
    fn new(stamps: Stamps, limit: Option<u64>) -> Self {
        Self {
            stamps,
            left: limit,
            is_at_start: [true; 2],
        }
    }

    fn line(&mut self, line: LogLine) -> Piece {
        let (index, text) = match line.text {
            Output::Stdout(text) => (0, text),
            Output::Stderr(text) => (1, text),
        };
        let begins = std::mem::replace(&mut self.is_at_start[index], text.ends_with(b"\n"));
        let mut bytes = if begins && self.stamps == Stamps::Shown {
            let mut stamped = BytesMut::with_capacity(line.time.len() + 1 + text.len());
            stamped.extend_from_slice(line.time.as_bytes());
            stamped.extend_from_slice(b" ");
            stamped.extend_from_slice(&text);
            stamped.freeze()
        } else {
            text
        };
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        Piece {
            bytes,
            is_last: self.left == Some(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: Output) -> LogLine {
        LogLine {
            time: "2026-01-02T03:04:05.6Z".into(),
            text,
        }
    }

    #[test]
    fn lines_in_parts_have_one_time() {
        let mut print = Print::new(Stamps::Shown, None);
        let mut printed = String::new();
        for text in [
            Output::Stdout("a ".into()),
            Output::Stderr("e\n".into()),
            Output::Stdout("b\n".into()),
            Output::Stdout("c\n".into()),
        ] {
            printed.push_str(&String::from_utf8_lossy(&print.line(line(text)).bytes));
        }
        let time = "2026-01-02T03:04:05.6Z";
        assert_eq!(printed, format!("{time} a {time} e\nb\n{time} c\n"));
    }

    #[test]
    fn the_limit_cuts_and_ends() {
        let mut print = Print::new(Stamps::Hidden, Some(5));
        let first = print.line(line(Output::Stdout("abc\n".into())));
        assert!(&first.bytes[..] == b"abc\n" && !first.is_last);
        let second = print.line(line(Output::Stdout("def\n".into())));
        assert!(&second.bytes[..] == b"d" && second.is_last);
    }

    #[test]
    fn requests_are_understood() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let parse = |text| Wanted::parse(&Query::parse(text), now);
        let wanted = parse("follow=true&tailLines=5&sinceSeconds=10&timestamps=1&limitBytes=9")
            .expect("it makes sense");
        assert_eq!(
            wanted,
            Wanted {
                options: LogOptions {
                    tail: Some(5),
                    since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(990)),
                    follow: true,
                },
                is_previous: false,
                stamps: Stamps::Shown,
                limit: Some(9),
            }
        );
        let wanted = parse("sinceTime=1970-01-01T00:00:07Z&previous=true").expect("it makes sense");
        assert!(wanted.is_previous);
        assert_eq!(
            wanted.options.since,
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7))
        );
        for text in [
            "tailLines=-1",
            "limitBytes=x",
            "sinceTime=now",
            "sinceTime=1970-01-01T00:00:07Z&sinceSeconds=1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
