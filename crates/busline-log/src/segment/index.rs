//! A sparse index of one segment, in memory: where some frames begin, learnt while reading and writing.

/// The distance between two entries, in bytes, at first.
const STRIDE_MIN: u64 = 64 << 10;
/// At most so many entries; the stride doubles beyond.
const ENTRIES_MAX: usize = 1024;

/// A frame's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seq: u64,
    pub(crate) pos: u64,
    pub(crate) time_us: i64,
}

/// Some frames of a segment, in order: sequence numbers, positions and times grow together.
#[derive(Debug)]
pub(crate) struct SparseIndex {
    places: Vec<Place>,
    stride: u64,
}

impl SparseIndex {
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), stride: STRIDE_MIN }
    }

    /// Remembers a frame when no other near it is; returns the position below which nothing is wanted.
    pub(crate) fn note(&mut self, place: Place) -> u64 {
        let at = self.places.partition_point(|p| p.pos <= place.pos);
        let floor = at.checked_sub(1).and_then(|i| self.places.get(i)).map_or(0, |p| p.pos);
        if place.pos.saturating_sub(floor) < self.stride {
            return floor + self.stride;
        }
        let next = self.places.get(at).map_or(u64::MAX, |p| p.pos);
        if next - place.pos >= self.stride / 2 {
            self.places.insert(at, place);
            if self.places.len() > ENTRIES_MAX {
                self.thin();
            }
        }
        place.pos + self.stride
    }

    /// Drops every other entry.
    fn thin(&mut self) {
        self.stride *= 2;
        let mut keep = false;
        self.places.retain(|_| {
            keep = !keep;
            keep
        });
    }

    /// The last known frame that begins at or before a sequence number.
    pub(crate) fn floor_seq(&self, seq: u64) -> Option<Place> {
        self.last_of(self.places.partition_point(|p| p.seq <= seq))
    }

    /// The last known frame that is older than a time.
    pub(crate) fn before_time(&self, time_us: i64) -> Option<Place> {
        self.last_of(self.places.partition_point(|p| p.time_us < time_us))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    fn last_of(&self, count: usize) -> Option<Place> {
        self.places.get(count.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(i: u64) -> Place {
        Place { seq: i, pos: 64 + i * 1000, time_us: (i * 10).cast_signed() }
    }

    #[test]
    fn the_index_is_sparse_in_any_order_of_learning() {
        let mut index = SparseIndex::new();
        for i in (0..1000).rev().chain(0..1000) {
            index.note(place(i));
        }
        assert!((8..=32).contains(&index.places.len()), "{}", index.places.len());
        for seq in 100..1000 {
            let found = index.floor_seq(seq).unwrap();
            assert!(found.seq <= seq && seq - found.seq < 140, "{seq}: {found:?}");
            assert_eq!(found, place(found.seq));
        }
        assert_eq!(index.floor_seq(0), None);
    }

    #[test]
    fn the_index_is_bounded_however_long_the_segment() {
        let mut index = SparseIndex::new();
        for i in 0..1_000_000 {
            index.note(place(i));
        }
        assert!(index.places.len() <= ENTRIES_MAX);
        let found = index.before_time(5_000_000).unwrap();
        assert!(found.time_us < 5_000_000 && found.seq > 490_000, "{found:?}");
    }
}
