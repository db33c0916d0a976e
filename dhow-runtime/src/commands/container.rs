//! `create`, `run`, `start`, `kill`, `delete`, `pause`, `resume`, `update`.

use std::ffi::OsString;

use anyhow::{Context, anyhow};
use dhow_runtime::spec::{Cpu, Memory, Pids, Resources};
use dhow_runtime::{
    Alive, Bundle, Create, Created, Gate, Keyring, Pivot, Reach, RootSource, Runtime, RuntimeError,
    Streams,
};

use super::{Outcome, told, with_id, write_pid};
use crate::arguments::{Global, Known, Parsed, flag, value};
use crate::foreground::{Signals, wait};
use crate::terminal::{self, Relay};

const CREATE: [Known; 9] = [
    value("bundle", 'b'),
    value("console-socket", '\0'),
    value("pid-file", '\0'),
    value("preserve-fds", '\0'),
    flag("no-pivot", '\0'),
    flag("no-new-keyring", '\0'),
    flag("detach", 'd'),
    flag("keep", '\0'),
    flag("no-subreaper", '\0'),
];

fn bundle(parsed: &Parsed) -> anyhow::Result<Bundle> {
    let named = parsed.path("bundle").unwrap_or_else(|| ".".into());
    let path = std::path::absolute(&named)
        .and_then(std::fs::canonicalize)
        .with_context(|| format!("find bundle {}", named.display()))?;
    Bundle::open(&path).map_err(told)
}

/// What the options of `create` and `run` say besides the streams.
fn request<'a>(
    global: &Global,
    parsed: &Parsed,
    id: &'a str,
    bundle: &'a Bundle,
    gate: Gate,
) -> anyhow::Result<Create<'a>> {
    Ok(Create {
        id,
        bundle,
        root: &RootSource::Bundle,
        streams: Streams::inherited(),
        n_preserved: parsed.number("preserve-fds")?.unwrap_or(0),
        pivot: if parsed.has("no-pivot") {
            Pivot::Cover
        } else {
            Pivot::Change
        },
        keyring: if parsed.has("no-new-keyring") {
            Keyring::Kept
        } else {
            Keyring::New
        },
        gate,
        groups: global.groups,
    })
}

fn make(global: &Global, runtime: &Runtime, request: Create<'_>) -> anyhow::Result<Created> {
    let created = runtime.create(request).map_err(told)?;
    global.log.warnings(&created.warnings);
    Ok(created)
}

fn console(parsed: &Parsed) -> anyhow::Result<Option<Streams>> {
    let socket = parsed
        .path("console-socket")
        .filter(|path| !path.as_os_str().is_empty());
    socket
        .map(|path| terminal::connect(&path).map(Streams::terminal))
        .transpose()
}

pub fn create(
    global: &Global,
    runtime: &Runtime,
    words: impl Iterator<Item = OsString>,
) -> Outcome {
    let (parsed, id) = with_id(words, &CREATE)?;
    dhow_sys::protect::re_execute().context("protect the executable")?;
    let bundle = bundle(&parsed)?;
    let mut request = request(global, &parsed, &id, &bundle, Gate::Anyone)?;
    if let Some(streams) = console(&parsed)? {
        request.streams = streams;
    }
    let created = make(global, runtime, request)?;
    if let Err(error) = write_pid(parsed.path("pid-file"), created.process.pid) {
        // The first error is the one to tell.
        let _ = created.container.delete(Alive::Kill);
        return Err(error.into());
    }
    Ok(0)
}

pub fn run(global: &Global, runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (parsed, id) = with_id(words, &CREATE)?;
    dhow_sys::protect::re_execute().context("protect the executable")?;
    let detach = parsed.has("detach");
    let bundle = bundle(&parsed)?;
    let (mut ours, mut streams) = (None, console(&parsed)?);
    let process = bundle.spec().process.as_ref();
    if streams.is_none() && process.is_some_and(|process| process.terminal) {
        if detach {
            let reason = "cannot allocate tty if the runtime detaches without a console socket";
            return Err(anyhow!(reason).into());
        }
        let (here, there) = terminal::pair()?;
        (ours, streams) = (Some(here), Some(Streams::terminal(there)));
    }
    // Detached, signals are nobody's business here.
    let signals = if detach { None } else { Some(Signals::take()?) };
    // A terminal has its size before the program looks at it.
    let gate = if streams.is_some() {
        Gate::Maker
    } else {
        Gate::Open
    };
    let mut request = request(global, &parsed, &id, &bundle, gate)?;
    if let Some(streams) = streams {
        request.streams = streams;
    }
    let mut created = make(global, runtime, request)?;
    let mut start = || -> anyhow::Result<Option<Relay>> {
        write_pid(parsed.path("pid-file"), created.process.pid)?;
        let relay = ours.as_ref().map(Relay::receive).transpose()?;
        created.start().map_err(told)?;
        Ok(relay)
    };
    let relay = match start() {
        Ok(relay) => relay,
        Err(error) => {
            // As above.
            let _ = created.container.delete(Alive::Kill);
            return Err(error.into());
        }
    };
    let Some(signals) = signals else { return Ok(0) };
    let end = wait(&created.process, &signals, relay)?;
    if !parsed.has("keep") {
        let warnings = created.container.delete(Alive::Kill).map_err(told)?;
        global.log.warnings(&warnings);
    }
    Ok(u8::try_from(end.shell_code() & 0xff).unwrap_or(1))
}

pub fn start(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (_, id) = with_id(words, &[])?;
    runtime
        .open(&id)
        .and_then(|container| container.start())
        .map_err(told)?;
    Ok(0)
}

pub fn kill(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (parsed, id) = with_id(words, &[flag("all", 'a')])?;
    let signal = match parsed.words.get(1) {
        Some(_) => signal(parsed.word(1, "signal")?)?,
        None => libc::SIGTERM,
    };
    let reach = if parsed.has("all") {
        Reach::Everyone
    } else {
        Reach::First
    };
    runtime
        .open(&id)
        .and_then(|container| container.kill(signal, reach))
        .map_err(told)?;
    Ok(0)
}

/// A signal by number, by name, or by name with `SIG` before.
fn signal(text: &str) -> anyhow::Result<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    const LAST: i32 = 64;
    const FIRST_REAL_TIME: i32 = 34;
    if let Ok(number) = text.parse::<i32>() {
        return (0..=LAST)
            .contains(&number)
            .then_some(number)
            .with_context(|| unknown(text));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.parse()?
        };
        let number = FIRST_REAL_TIME + offset;
        return (FIRST_REAL_TIME..=LAST)
            .contains(&number)
            .then_some(number)
            .with_context(|| unknown(text));
    }
    let index = NAMES
        .iter()
        .position(|known| *known == name)
        .with_context(|| unknown(text))?;
    Ok(i32::try_from(index)? + 1)
}

fn unknown(text: &str) -> String {
    format!("unknown signal {text:?}")
}

pub fn delete(
    global: &Global,
    runtime: &Runtime,
    words: impl Iterator<Item = OsString>,
) -> Outcome {
    let (parsed, id) = with_id(words, &[flag("force", 'f')])?;
    let force = parsed.has("force");
    let alive = if force { Alive::Kill } else { Alive::Refuse };
    match runtime
        .open(&id)
        .and_then(|container| container.delete(alive))
    {
        Err(RuntimeError::NotFound) if force => {
            // What a runtime that was killed has left, if anything.
            runtime.delete_unfinished(&id).map_err(told)?;
            Ok(0)
        }
        Err(RuntimeError::State { status, .. }) => {
            Err(anyhow!("cannot delete container {id} that is not stopped: {status}").into())
        }
        result => {
            global.log.warnings(&result.map_err(told)?);
            Ok(0)
        }
    }
}

pub fn pause(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (_, id) = with_id(words, &[])?;
    runtime
        .open(&id)
        .and_then(|container| container.pause())
        .map_err(told)?;
    Ok(0)
}

pub fn resume(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (_, id) = with_id(words, &[])?;
    runtime
        .open(&id)
        .and_then(|container| container.resume())
        .map_err(told)?;
    Ok(0)
}

const UPDATE: [Known; 19] = [
    value("resources", 'r'),
    value("memory", '\0'),
    value("memory-reservation", '\0'),
    value("memory-swap", '\0'),
    value("cpu-share", '\0'),
    value("cpu-quota", '\0'),
    value("cpu-period", '\0'),
    value("cpuset-cpus", '\0'),
    value("cpuset-mems", '\0'),
    value("pids-limit", '\0'),
    value("blkio-weight", '\0'),
    value("cpu-burst", '\0'),
    value("cpu-idle", '\0'),
    value("cpu-rt-period", '\0'),
    value("cpu-rt-runtime", '\0'),
    value("kernel-memory-tcp", '\0'),
    // Accepted: the kernel does not know it any more.
    value("kernel-memory", '\0'),
    value("l3-cache-schema", '\0'),
    value("mem-bw-schema", '\0'),
];

pub fn update(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (parsed, id) = with_id(words, &UPDATE)?;
    for name in ["l3-cache-schema", "mem-bw-schema"] {
        if parsed.get(name).is_some_and(|schema| !schema.is_empty()) {
            let reason = "Intel RDT is not supported, caches and memory bandwidth are not limited";
            return Err(anyhow!("--{name}: {reason}").into());
        }
    }
    let mut resources = match parsed.path("resources") {
        Some(path) if path.as_os_str() == "-" => {
            serde_json::from_reader(std::io::stdin()).context("parse resources")?
        }
        Some(path) => {
            let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?
        }
        None => Resources::default(),
    };
    let text = |name: &str| {
        parsed
            .get(name)
            .map(|text| text.to_string_lossy().into_owned())
    };
    let memory = resources.memory.get_or_insert_with(Memory::default);
    memory.limit = parsed.bytes("memory")?.or(memory.limit);
    memory.reservation = parsed.bytes("memory-reservation")?.or(memory.reservation);
    memory.kernel_tcp = parsed.bytes("kernel-memory-tcp")?.or(memory.kernel_tcp);
    memory.swap = parsed.bytes("memory-swap")?.or(memory.swap);
    let cpu = resources.cpu.get_or_insert_with(Cpu::default);
    cpu.shares = parsed.number("cpu-share")?.or(cpu.shares);
    cpu.quota = parsed.number("cpu-quota")?.or(cpu.quota);
    cpu.period = parsed.number("cpu-period")?.or(cpu.period);
    cpu.burst = parsed.number("cpu-burst")?.or(cpu.burst);
    cpu.idle = parsed.number("cpu-idle")?.or(cpu.idle);
    cpu.realtime_period = parsed.number("cpu-rt-period")?.or(cpu.realtime_period);
    cpu.realtime_runtime = parsed.number("cpu-rt-runtime")?.or(cpu.realtime_runtime);
    cpu.cpus = text("cpuset-cpus").or(cpu.cpus.take());
    cpu.mems = text("cpuset-mems").or(cpu.mems.take());
    if let Some(limit) = parsed.number("pids-limit")? {
        resources.pids = Some(Pids { limit });
    }
    if let Some(weight) = parsed.number("blkio-weight")? {
        resources.block_io.get_or_insert_default().weight = Some(weight);
    }
    runtime
        .open(&id)
        .and_then(|container| container.update(&resources))
        .map_err(told)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGterm", 15),
            ("sys", 31),
            ("RTMIN+3", 37),
        ] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "65", "-1", "SIGNONSENSE", "RTMIN+99"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
