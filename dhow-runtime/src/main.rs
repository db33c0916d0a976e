//! The `dhow-runtime` executable: OCI runtime and container supervisor.
//!
//! The command line is runc's, so that whatever drives runc can drive this. It
//! is started for every container: arguments are parsed by hand, and nothing is
//! initialised that is not used.

mod arguments;
mod commands;
mod foreground;
mod init;
mod log;
mod terminal;

use std::process::ExitCode;

use arguments::Global;

fn main() -> ExitCode {
    let mut words = std::env::args_os().peekable();
    let own = words.next().map(std::path::PathBuf::from);
    if own.is_some_and(|own| own.file_name().is_some_and(|name| name == init::NAME)) {
        return init::run(words);
    }
    if words.peek().is_some_and(|word| word == "shim") {
        return commands::shim(words.skip(1));
    }
    let (global, words) = match Global::parse(words) {
        Ok(parsed) => parsed,
        Err(error) => {
            log::Log::default().error(&format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    match commands::run(&global, words) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            global.log.error(&format!("{:#}", failure.error));
            ExitCode::from(failure.code)
        }
    }
}
