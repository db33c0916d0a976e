//! Signals that the client gets, handed to a container.

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::client::{Client, escape};

/// SIGHUP to SIGSYS and the real-time signals, without those that cannot be
/// caught, that tell of faults of the client's own, or that are about its own
/// children and pipes.
fn forwarded() -> impl Iterator<Item = i32> {
    const OWN: [i32; 8] = [
        4,  // SIGILL
        8,  // SIGFPE
        9,  // SIGKILL
        11, // SIGSEGV
        13, // SIGPIPE
        17, // SIGCHLD
        19, // SIGSTOP
        23, // SIGURG
    ];
    (1..32)
        .filter(|number| !OWN.contains(number))
        .chain(34..=64)
}

/// Hands the signals that this process gets to the container, until what is
/// returned is dropped.
pub(crate) fn pass_on(client: Client, id: String) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for number in forwarded() {
        let Ok(mut signals) = signal(SignalKind::from_raw(number)) else {
            continue;
        };
        let path = format!("/containers/{}/kill?signal={number}", escape(&id));
        let client = client.clone();
        tasks.spawn(async move {
            while signals.recv().await.is_some() {
                // A container that is gone needs no signal.
                let _ = client.post(&path, None).await;
            }
        });
    }
    tasks
}
