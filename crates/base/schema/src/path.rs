//! Where a value stands in an object, as upstream writes it in errors:
//! `spec.containers[0].image`.

use std::fmt;

/// A path as a chain of steps on the stack; nothing is allocated unless printed.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl Path<'_> {
    /// The object itself.
    pub const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };
}

impl<'a> Path<'a> {
    /// A field of the value at this path.
    pub fn field(&'a self, name: &'a str) -> Self {
        Path {
            parent: Some(self),
            step: Step::Name(name),
        }
    }

    /// An item of the list at this path.
    pub fn index(&'a self, index: usize) -> Self {
        Path {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// An entry of the map at this path.
    pub fn key(&'a self, key: &'a str) -> Self {
        Path {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    /// The path without indices, as Go's decoder prints it.
    pub(crate) fn names(&self) -> String {
        let mut names = Vec::new();
        let mut path = Some(self);
        while let Some(this) = path {
            if let Step::Name(name) | Step::Key(name) = this.step {
                names.push(name);
            }
            path = this.parent;
        }
        names.reverse();
        names.join(".")
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if let (Step::Name(_), false) = (self.step, matches!(parent.step, Step::Root)) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_upstream() {
        let spec = Path::ROOT.field("spec");
        let containers = spec.field("containers");
        let first = containers.index(0);
        assert_eq!(first.field("image").to_string(), "spec.containers[0].image");
        assert_eq!(first.field("image").names(), "spec.containers.image");
        assert_eq!(spec.key("a.b/c").to_string(), "spec[a.b/c]");
    }
}
