//! What is made of the command line's own definition: completions of shells,
//! and manual pages.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

// `dhow completion`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// For which shell.
    shell: Shell,
}

// `dhow man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder that the pages are written to.
    #[arg(default_value = ".", value_name = "FOLDER")]
    folder: PathBuf,
}

/// Prints the completions of a shell.
pub(crate) fn complete(completion: &Completion, mut command: Command) {
    let mut script = Vec::new();
    clap_complete::generate(completion.shell, &mut command, "dhow", &mut script);
    // A closed pipe is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), &script);
}

/// Writes a page for the program and one for each command.
pub(crate) fn write_pages(man: &Man, command: Command) -> Result<()> {
    let folder = &man.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("write pages to {}", folder.display()))
}
