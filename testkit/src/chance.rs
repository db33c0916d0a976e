//! Chance, as far as a failure can be repeated.

/// A generator of numbers.
#[derive(Debug)]
pub struct Chance(u64);

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}

impl Chance {
    /// Another one in each process; its seed is told, to be shown when a test fails.
    pub fn new() -> Self {
        let seed = u64::from(std::process::id()) | 1 << 40;
        eprintln!("seed {seed}");
        Self(seed)
    }

    /// A number below a bound, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// One of them; none of none.
    pub fn of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let at = self.below(items.len().max(1) as u64);
        items.get(at as usize)
    }
}
