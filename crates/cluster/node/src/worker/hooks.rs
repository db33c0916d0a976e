//! Hooks of containers: what is run after they were started and before they
//! are stopped.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::probe::{Target, get};

/// Runs a hook to its end; why it failed.
pub(super) async fn run(target: &Target<'_>, hook: &LifecycleHandler) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default().join(" ");
        return match target.run(action).await {
            Ok((0, _)) => Ok(()),
            Ok((code, output)) => Err(format!(
                "Exec lifecycle hook ([{command}]) failed - error: command exited with {code}, message: {output:?}"
            )),
            Err(why) => Err(format!(
                "Exec lifecycle hook ([{command}]) failed - error: {why}"
            )),
        };
    }
    if let Some(action) = &hook.http_get {
        // Any answer is one.
        return get(target, action).await.map(drop);
    }
    if let Some(action) = &hook.sleep {
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err("invalid handler: it has neither exec, httpGet nor sleep".to_owned())
}
