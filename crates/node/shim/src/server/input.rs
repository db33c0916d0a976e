//! What a client of a process's streams sends: pieces of standard input, each
//! behind its length, and an end that is said.

/// Bytes of a length.
const HEADER: usize = 4;

/// Where a client is in what it sends.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// What is there of the next length.
    header: [u8; HEADER],
    n_header: usize,
    /// Bytes that are still to come of the piece that was begun.
    left: usize,
    has_ended: bool,
}

impl Pieces {
    /// Takes what was read; what is input goes to `give`, in order. What comes
    /// after the end is nobody's.
    pub(super) fn take<'a>(&mut self, mut bytes: &'a [u8], mut give: impl FnMut(&'a [u8])) {
        while !self.has_ended && !bytes.is_empty() {
            if self.left > 0 {
                let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
                give(piece);
                self.left -= piece.len();
                bytes = rest;
                continue;
            }
            let (more, rest) = bytes.split_at((HEADER - self.n_header).min(bytes.len()));
            self.header[self.n_header..][..more.len()].copy_from_slice(more);
            self.n_header += more.len();
            bytes = rest;
            if self.n_header == HEADER {
                self.n_header = 0;
                self.left = u32::from_be_bytes(self.header) as usize;
                self.has_ended = self.left == 0;
            }
        }
    }

    /// Whether the client has said that there is no more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(pieces: &[Vec<u8>]) -> Vec<u8> {
        let frame = |piece: &Vec<u8>| [&(piece.len() as u32).to_be_bytes(), &piece[..]].concat();
        pieces.iter().flat_map(frame).collect()
    }

    proptest! {
        /// However it arrives, it is what was sent, up to the end.
        #[test]
        fn input_is_what_was_sent(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..8),
            step in 1_usize..30,
        ) {
            let mut taken = Vec::new();
            let mut reader = Pieces::default();
            for part in framed(&pieces).chunks(step) {
                reader.take(part, |bytes| taken.extend_from_slice(bytes));
            }
            let until_end: Vec<u8> = pieces
                .iter()
                .take_while(|piece| !piece.is_empty())
                .flatten()
                .copied()
                .collect();
            prop_assert_eq!(taken, until_end);
            prop_assert_eq!(reader.has_ended(), pieces.iter().any(Vec::is_empty));
        }

        /// Whatever it is, it gives no more than came in.
        #[test]
        fn anything_may_be_sent(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut n_taken = 0;
            Pieces::default().take(&bytes, |piece| n_taken += piece.len());
            prop_assert!(n_taken <= bytes.len());
        }
    }
}
