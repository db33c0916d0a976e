//! The `dhow-runtime` executable: OCI runtime and container supervisor.

fn main() {
    println!("dhow-runtime {}", env!("CARGO_PKG_VERSION"));
}
