//! The bytes of a blob, in order, however often the transfer breaks off; those
//! of a large one over several connections at once.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::mpsc;

use crate::remote::MAX_RESUMES;
use crate::remote::pull::{COUNT_EVERY, Piece, Transfer};
use crate::remote::session::{Ask, Session, may_pass};
use crate::{Error, Result};

/// From this many missing bytes on, a blob is asked for in stretches.
const LARGE: u64 = 32 << 20;
/// Bytes of a stretch. It waits in memory until those before it have come.
const STRETCH: u64 = 4 << 20;
/// Stretches that are on their way at a time.
const AT_ONCE: usize = 3;

/// How receiving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// With the last byte.
    All,
    /// Nobody takes the bytes any more.
    NotWanted,
}

/// How a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    InStretches,
    AtOnce,
}

impl Transfer {
    /// Receives everything from `offset` on, taking the transfer up again
    /// where it broke off.
    pub(super) async fn receive(
        &self,
        offset: &mut u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Received> {
        let (mut n_failed, mut n_resumed) = (0, 0);
        let mut session = Arc::clone(&self.session);
        let mut manner = Manner::InStretches;
        while *offset < self.blob.size {
            let before = *offset;
            let is_large = self.blob.size - before >= LARGE;
            let attempt = match manner {
                Manner::InStretches if is_large => {
                    self.in_stretches(&session, offset, pieces).await
                }
                _ => self.at_once(&session, offset, pieces).await,
            };
            let error = match attempt {
                Ok(received) => return Ok(received),
                Err(error) => error,
            };
            if *offset > before {
                n_failed = 0;
            }
            if is_large && manner == Manner::InStretches && !may_pass(&error) {
                // Not everybody can.
                tracing::debug!(%error, "asking for the rest at once");
                manner = Manner::AtOnce;
                continue;
            }
            n_resumed += 1;
            if n_resumed > MAX_RESUMES {
                return Err(error);
            }
            if let Err(error) = session.endure(error, &mut n_failed).await {
                // Bytes are bytes, whichever host they come from.
                let next = session.next().await.ok_or(error)?;
                (session, n_failed) = (Arc::new(next), 0);
                manner = Manner::InStretches;
            }
            let id = self.blob.digest.short();
            self.progress
                .status(id, format!("Retrying at {}", *offset))
                .await;
        }
        Ok(Received::All)
    }

    /// One request for everything.
    async fn at_once(
        &self,
        session: &Session,
        offset: &mut u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Received> {
        let mut ask = self.ask(session)?;
        if *offset > 0 {
            ask = ask.header(RANGE, &format!("bytes={}-", *offset));
        }
        let response = session.send(&ask).await?;
        let mut skip = match response.status() {
            StatusCode::OK => *offset,
            StatusCode::PARTIAL_CONTENT => {
                check_range(session, response.headers(), *offset)?;
                0
            }
            _ => return Err(session.refusal(response).await),
        };
        let id = self.blob.digest.short();
        let mut counted = *offset;
        let mut body = response.into_body();
        while let Some(mut data) = session.chunk(&mut body).await? {
            // A registry that ignores ranges begins at the beginning.
            let n_skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(data.len());
            let data = data.split_off(n_skipped);
            skip -= n_skipped as u64;
            if *offset + data.len() as u64 > self.blob.size {
                return Err(session.nonsense(format!(
                    "layer {id} is larger than the {} bytes announced",
                    self.blob.size
                )));
            }
            if !self.pass_on(data, offset, &mut counted, pieces).await {
                return Ok(Received::NotWanted);
            }
            if *offset == self.blob.size {
                return Ok(Received::All);
            }
        }
        Err(self.cut_off(session, *offset))
    }

    /// Several requests at a time for a stretch each.
    async fn in_stretches(
        &self,
        session: &Session,
        offset: &mut u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Received> {
        let (start, size) = (*offset, self.blob.size);
        let n_stretches = (size - start).div_ceil(STRETCH);
        let mut stretches = futures_util::stream::iter(0..n_stretches)
            .map(|n| {
                let first = start + n * STRETCH;
                self.stretch(session, first, size.min(first + STRETCH))
            })
            .buffered(AT_ONCE);
        let mut counted = start;
        while let Some(stretch) = stretches.next().await {
            for data in stretch? {
                if !self.pass_on(data, offset, &mut counted, pieces).await {
                    return Ok(Received::NotWanted);
                }
            }
        }
        Ok(Received::All)
    }

    /// The bytes from `start` up to `end`.
    async fn stretch(&self, session: &Session, start: u64, end: u64) -> Result<Vec<Bytes>> {
        let range = format!("bytes={start}-{}", end - 1);
        let response = session
            .send(&self.ask(session)?.header(RANGE, &range))
            .await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => check_range(session, response.headers(), start)?,
            StatusCode::OK => {
                return Err(session.nonsense(format!("asked for {range}, got all of it")));
            }
            _ => return Err(session.refusal(response).await),
        }
        let mut body = response.into_body();
        let (mut data, mut at) = (Vec::new(), start);
        while let Some(piece) = session.chunk(&mut body).await? {
            at += piece.len() as u64;
            if at > end {
                return Err(session.nonsense(format!("asked for {range}, got more")));
            }
            data.push(piece);
        }
        match at == end {
            true => Ok(data),
            false => Err(self.cut_off(session, at)),
        }
    }

    fn ask(&self, session: &Session) -> Result<Ask> {
        let url = session.url(&format!("blobs/{}", self.blob.digest))?;
        Ok(Ask::new(Method::GET, url))
    }

    /// Passes bytes on and counts them; false if nobody takes them.
    async fn pass_on(
        &self,
        data: Bytes,
        offset: &mut u64,
        counted: &mut u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> bool {
        *offset += data.len() as u64;
        if !data.is_empty() && pieces.send(Piece::Data(data)).await.is_err() {
            return false;
        }
        if *offset - *counted >= COUNT_EVERY || *offset == self.blob.size {
            *counted = *offset;
            let id = self.blob.digest.short();
            self.progress
                .count(id, "Downloading", *offset, self.blob.size);
        }
        true
    }

    fn cut_off(&self, session: &Session, offset: u64) -> Error {
        let url = session.url(&format!("blobs/{}", self.blob.digest));
        Error::Network {
            url: url.map(|url| url.to_string()).unwrap_or_default(),
            message: format!("unexpected EOF after {offset} of {} bytes", self.blob.size),
        }
    }
}

fn check_range(session: &Session, headers: &HeaderMap, offset: u64) -> Result<()> {
    let range = headers
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let start = range
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split('-').next())
        .and_then(|start| start.parse::<u64>().ok());
    if start != Some(offset) {
        return Err(session.nonsense(format!("asked for bytes from {offset}, got {range:?}")));
    }
    Ok(())
}
