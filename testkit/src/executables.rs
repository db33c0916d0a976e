//! Where the executables under test and the real clients are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::Host;

/// The folder with the executables of this build.
fn built() -> PathBuf {
    let own = std::env::current_exe().expect("this process has an executable");
    let folder = own.parent().expect("it lies in a folder");
    // TARGET/PROFILE/deps/TEST: the executables lie one folder up.
    if folder.ends_with("deps") {
        folder.parent().expect("that lies in a folder").to_owned()
    } else {
        folder.to_owned()
    }
}

/// The `dhow` executable.
///
/// # Panics
///
/// When it is not built.
pub fn dhow() -> PathBuf {
    existing("dhow")
}

/// The `dhow-runtime` executable.
///
/// # Panics
///
/// When it is not built.
pub fn runtime() -> PathBuf {
    existing("dhow-runtime")
}

fn existing(name: &str) -> PathBuf {
    let path = built().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make build` first",
        path.display()
    );
    path
}

/// A real program that a test needs.
///
/// # Panics
///
/// When it is not installed: a claim of compatibility is made with the program
/// itself, so its absence fails the test.
pub fn require(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.exists())
        .unwrap_or_else(|| panic!("{program} is missing: install {package}, or run `make setup`"))
}

/// A real program that is no package of the distribution: `scripts/setup` puts
/// it below `.cache` in the repository.
///
/// # Panics
///
/// When it is not there.
pub fn cached(path: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the repository");
    let path = repository.join(".cache").join(path);
    assert!(
        path.exists(),
        "{} is missing: run `make setup`",
        path.display()
    );
    path
}

/// Compiles a program of one file for this host, statically: it runs in any image.
///
/// # Panics
///
/// When it does not compile, or without a compiler.
pub fn compile(host: &Host, source: &Path) -> PathBuf {
    let name = source.file_stem().expect("it is a file");
    let target = host.folder().join(name);
    let built = Command::new(require("cc", "the Debian package gcc"))
        .args(["-static", "-O1", "-Wall", "-Werror", "-o"])
        .args([&target, source])
        .status()
        .expect("the compiler starts");
    assert!(built.success(), "{} does not compile", source.display());
    target
}
