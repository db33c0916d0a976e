//! The `dhow` executable: one program, its role chosen by the subcommand.

mod apparmor;
mod cluster;
mod daemon;
mod instance;
mod manual;
mod notify;
mod registry;
mod remap;
mod reserve;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Runs, builds and shares containers the Docker way, and orchestrates them
/// the Kubernetes way.
#[derive(Debug, Parser)]
#[command(
    name = "dhow",
    version,
    disable_version_flag = true,
    max_term_width = 100
)]
struct Arguments {
    /// Print version.
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    connection: dhow_cli::Connection,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Role {
    /// Serve containers on a socket, until it is told to stop.
    Daemon(daemon::Options),
    /// Serve images to others, until it is told to stop.
    Registry(registry::Options),
    /// Print completions of a shell: `source <(dhow completion bash)`.
    Completion(manual::Completion),
    /// Write manual pages: `dhow man /usr/local/share/man/man1`.
    Man(manual::Man),
    #[command(flatten)]
    Client(dhow_cli::Command),
}

fn main() -> ExitCode {
    let arguments: Arguments = match dhow_cli::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let threads = match &arguments.role {
        Role::Daemon(_) | Role::Registry(_) => tokio::runtime::Builder::new_multi_thread(),
        // A client waits for one thing at a time.
        Role::Client(_) | Role::Completion(_) | Role::Man(_) => {
            tokio::runtime::Builder::new_current_thread()
        }
    };
    let runtime = { threads }.enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dhow: threads cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match arguments.role {
        Role::Daemon(options) => told(runtime.block_on(daemon::run(&options))),
        Role::Registry(options) => told(runtime.block_on(registry::run(options))),
        Role::Completion(completion) => {
            manual::complete(&completion, Arguments::command());
            ExitCode::SUCCESS
        }
        Role::Man(man) => told(manual::write_pages(&man, Arguments::command())),
        Role::Client(command) => {
            if matches!(command, dhow_cli::Command::Up(_)) {
                let address = match arguments.connection.address() {
                    Ok(address) => address,
                    Err(error) => return error.report(),
                };
                if let Err(error) = notify::ensure_daemon(&address) {
                    return told(Err(error));
                }
            }
            runtime.block_on(dhow_cli::run(&arguments.connection, command))
        }
    };
    // A thread that reads the user's terminal cannot be waited for.
    runtime.shutdown_background();
    code
}

/// The exit code of a serving role; what went wrong is told.
fn told(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dhow: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_well_defined() {
        Arguments::command().debug_assert();
    }
}
