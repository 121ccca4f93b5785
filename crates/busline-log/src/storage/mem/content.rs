//! What a file holds: the bytes that readers see, the bytes on the medium, and what lies between them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::page::PageWords;
use super::record::{Choice, Unsynced};

/// The unit that a medium writes as a whole or not at all.
const SECTOR: usize = 512;

/// Images, like the content itself, are shared by the copies of a medium until one of them writes.
type Sector = Arc<[u8; SECTOR]>;

/// The content of one file.
///
/// A sector that was written since it was last synced has one image for every write. A loss of power
/// leaves any one of them on the medium, or what was there before: the page cache writes a sector back
/// with all that had been written to it until then, at a moment of its own choice. The length is kept in
/// the same way, apart from the data.
#[derive(Debug, Default)]
pub(super) struct Content {
    now: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    dirty: BTreeMap<usize, Vec<Sector>>,
    lens: Vec<usize>,
    /// The words of a file that is mapped; they are the truth for as long as they are there.
    page: Option<Arc<PageWords>>,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.now.len()
    }

    pub(super) fn read(&mut self, buf: &mut [u8], at: usize) -> usize {
        self.refresh();
        let rest = self.now.get(at..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        count
    }

    /// Writes; a gap before `at` reads as zeros.
    pub(super) fn write(&mut self, buf: &[u8], at: usize) {
        if buf.is_empty() {
            return;
        }
        self.refresh();
        let end = at.saturating_add(buf.len());
        if end > self.now.len() {
            Arc::make_mut(&mut self.now).resize(end, 0);
            self.lens.push(end);
        }
        if let Some(place) = Arc::make_mut(&mut self.now).get_mut(at..end) {
            place.copy_from_slice(buf);
        }
        self.mark_dirty(at..end);
        self.publish(at..end);
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.refresh();
        let old = self.now.len();
        if len == old {
            return;
        }
        Arc::make_mut(&mut self.now).resize(len, 0);
        self.lens.push(len);
        if len < old {
            self.mark_dirty(len..old);
        }
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) {
        self.refresh();
        for (index, images) in std::mem::take(&mut self.dirty) {
            if let Some(image) = images.last() {
                put(Arc::make_mut(&mut self.durable), index, image);
            }
        }
        self.lens.clear();
        Arc::make_mut(&mut self.durable).resize(self.now.len(), 0);
    }

    /// What a failed fsync leaves on Linux: the pages count as clean, so no later sync writes them, and
    /// readers go on seeing them until they fall out of memory.
    pub(super) fn forget_dirty(&mut self) {
        self.refresh();
        self.dirty.clear();
    }

    /// A loss of power; `path` is where the file is found after it.
    pub(super) fn crash(&mut self, path: &Path, choice: &mut Choice<'_>) {
        self.refresh();
        self.page = None;
        let mut pick = |what: Unsynced<'_>, count: usize| choice(what, count).min(count - 1);
        let lens = std::mem::take(&mut self.lens);
        let len = match pick(Unsynced::Length(path), lens.len() + 1) {
            0 => self.durable.len(),
            chosen => lens.get(chosen - 1).copied().unwrap_or(self.durable.len()),
        };
        for (index, mut images) in std::mem::take(&mut self.dirty) {
            // What makes no difference is not asked.
            images.dedup();
            if images.first().is_some_and(|image| self.holds(index, image)) {
                images.remove(0);
            }
            if images.is_empty() {
                continue;
            }
            let chosen = pick(Unsynced::Sector(path, index), images.len() + 1);
            if let Some(image) = chosen.checked_sub(1).and_then(|chosen| images.get(chosen)) {
                put(Arc::make_mut(&mut self.durable), index, image);
            }
        }
        Arc::make_mut(&mut self.durable).resize(len, 0);
        self.now = Arc::clone(&self.durable);
    }

    /// Whether a sector is on the medium already; beyond the end there are zeros.
    fn holds(&self, index: usize, image: &Sector) -> bool {
        let there = self.durable.get(index * SECTOR..).unwrap_or_default();
        let (same, rest) = image.split_at(there.len().min(SECTOR));
        there.starts_with(same) && rest.iter().all(|byte| *byte == 0)
    }

    /// The words of the file as a shared page; None when it is longer than one.
    pub(super) fn map(&mut self) -> Option<Arc<PageWords>> {
        if self.page.is_none() {
            if self.now.len() > PageWords::BYTES {
                return None;
            }
            let missing = PageWords::BYTES - self.now.len();
            self.write(&vec![0; missing], self.now.len());
            let page = Arc::new(PageWords::new());
            page.store(&self.now, 0..PageWords::BYTES);
            self.page = Some(page);
        }
        self.page.clone()
    }

    /// Wakes all who wait on a word of the file.
    pub(super) fn wake_mapped(&self) {
        if let Some(page) = &self.page {
            page.wake_all();
        }
    }

    /// A copy of the whole state, for another medium.
    pub(super) fn duplicate(&mut self) -> Self {
        self.refresh();
        let page = self.page.as_ref().map(|_| {
            let page = PageWords::new();
            page.store(&self.now, 0..PageWords::BYTES);
            Arc::new(page)
        });
        Self {
            now: Arc::clone(&self.now),
            durable: Arc::clone(&self.durable),
            dirty: self.dirty.clone(),
            lens: self.lens.clone(),
            page,
        }
    }

    /// Takes over what was stored into the mapped words.
    fn refresh(&mut self) {
        let Some(page) = &self.page else { return };
        let mut bytes = page.load();
        bytes.resize(self.now.len().min(PageWords::BYTES), 0);
        let changed: Vec<usize> = bytes
            .chunks(SECTOR)
            .zip(self.now.chunks(SECTOR))
            .enumerate()
            .filter_map(|(index, (new, old))| (new != old).then_some(index))
            .collect();
        if changed.is_empty() {
            return;
        }
        if let Some(place) = Arc::make_mut(&mut self.now).get_mut(..bytes.len()) {
            place.copy_from_slice(&bytes);
        }
        for index in changed {
            self.mark_dirty(index * SECTOR..index * SECTOR + 1);
        }
    }

    /// Shows the mapped words what was written to the file.
    fn publish(&self, bytes: Range<usize>) {
        if let Some(page) = &self.page {
            page.store(&self.now, bytes);
        }
    }

    fn mark_dirty(&mut self, bytes: Range<usize>) {
        for index in bytes.start / SECTOR..bytes.end.div_ceil(SECTOR) {
            let mut image = [0; SECTOR];
            let rest = self.now.get(index * SECTOR..).unwrap_or_default();
            let rest = rest.get(..SECTOR).unwrap_or(rest);
            if let Some(place) = image.get_mut(..rest.len()) {
                place.copy_from_slice(rest);
            }
            self.dirty.entry(index).or_default().push(Arc::new(image));
        }
    }
}

fn put(durable: &mut Vec<u8>, index: usize, image: &Sector) {
    let (start, end) = (index * SECTOR, (index + 1) * SECTOR);
    if durable.len() < end {
        durable.resize(end, 0);
    }
    if let Some(place) = durable.get_mut(start..end) {
        place.copy_from_slice(image.as_slice());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content: &mut Content) -> Vec<u8> {
        let mut buf = vec![0; content.len() + 1];
        let count = content.read(&mut buf, 0);
        buf.truncate(count);
        buf
    }

    #[test]
    fn unsynced_data_is_lost_or_kept_by_sector() {
        let mut content = Content::default();
        content.write(&[1; 1024], 0);
        content.sync();
        content.write(&[2; 1024], 0);
        content.write(&[3; 10], 0);
        // The first sector as of the first write, the second one not at all.
        let mut answers = [0, 1, 0].into_iter();
        let mut counts = Vec::new();
        content.crash(Path::new("f"), &mut |_, count| {
            counts.push(count);
            answers.next().unwrap()
        });
        assert_eq!(counts, [1, 3, 2]);
        assert_eq!(text(&mut content), [vec![2; 512], vec![1; 512]].concat());
    }

    #[test]
    fn an_unsynced_length_leaves_a_hole_or_is_lost() {
        for (answers, expected) in [([0, 1], vec![]), ([1, 0], vec![0; 5]), ([1, 1], vec![9; 5])] {
            let mut content = Content::default();
            content.write(&[9; 5], 0);
            let mut answers = answers.into_iter();
            content.crash(Path::new("f"), &mut |_, _| answers.next().unwrap());
            assert_eq!(text(&mut content), expected);
        }
    }

    #[test]
    fn a_cut_that_was_synced_leaves_nothing_behind_it() {
        let mut content = Content::default();
        content.write(&[1; 700], 0);
        content.sync();
        content.truncate(100);
        content.sync();
        content.truncate(700);
        content.sync();
        content.crash(Path::new("f"), &mut |_, count| count - 1);
        assert_eq!(text(&mut content), [vec![1; 100], vec![0; 600]].concat());
    }

    #[test]
    fn what_a_failed_sync_forgot_never_becomes_durable() {
        let mut content = Content::default();
        content.write(&[1; 512], 0);
        content.forget_dirty();
        content.write(&[2; 512], 512);
        content.sync();
        assert_eq!(text(&mut content), [vec![1; 512], vec![2; 512]].concat());
        content.crash(Path::new("f"), &mut |_, count| count - 1);
        assert_eq!(text(&mut content), [vec![0; 512], vec![2; 512]].concat());
    }
}
