//! The `dhow` executable: chooses a role, wires it and runs it.

fn main() {
    println!("dhow {}", env!("CARGO_PKG_VERSION"));
}
