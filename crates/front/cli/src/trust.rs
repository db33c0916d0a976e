//! Flags about signatures of images, which nobody looks at.

use clap::Args;

// Accepted for Docker's sake.
#[derive(Debug, Args)]
pub(crate) struct ContentTrust {
    /// Nothing is verified, whatever this says.
    #[arg(
        long,
        hide = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    disable_content_trust: Option<bool>,
}
