//! The messages that are published: a key of 16 bytes and a body that begins with its number.

/// The bytes of a key.
pub(crate) const KEY_LEN: usize = 16;

/// Makes messages without allocating.
#[derive(Debug)]
pub(crate) struct Payload {
    keys: Vec<[u8; KEY_LEN]>,
    body: Vec<u8>,
}

impl Payload {
    /// Bodies of this many bytes; incompressible, in 1,000 categories.
    pub(crate) fn new(body_len: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut body = Vec::with_capacity(body_len + 8);
        while body.len() < body_len {
            // xorshift64 by Marsaglia: any bytes will do that do not compress.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            body.extend_from_slice(&state.to_le_bytes());
        }
        body.truncate(body_len.max(8));
        let key = |number: usize| {
            let mut key = [0; KEY_LEN];
            key.copy_from_slice(format!("category.{number:07}").as_bytes());
            key
        };
        Self { keys: (0..1000).map(key).collect(), body }
    }

    /// The bytes of key and body together.
    pub(crate) fn len(&self) -> u64 {
        (KEY_LEN + self.body.len()) as u64
    }

    /// Key and body of message `number`.
    pub(crate) fn message(&mut self, number: u64) -> (&[u8], &[u8]) {
        let (head, _) = self.body.split_at_mut(8);
        head.copy_from_slice(&number.to_le_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "it is below 1,000")]
        let category = (number % 1000) as usize;
        (&self.keys[category], &self.body)
    }
}

/// The number that a body begins with.
pub(crate) fn number_of(body: &[u8]) -> Option<u64> {
    body.first_chunk().map(|head| u64::from_le_bytes(*head))
}

/// Counts what was read, so that a reader that skips or repeats is found out.
#[derive(Debug, Default)]
pub(crate) struct Count {
    messages: u64,
    sum: u64,
}

impl Count {
    /// Counts one body.
    pub(crate) fn add(&mut self, body: &[u8]) {
        self.messages += 1;
        self.sum = self.sum.wrapping_add(number_of(body).unwrap_or(u64::MAX));
    }

    /// How many there were.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Fails unless it was each of the first `messages` once.
    pub(crate) fn check(&self, messages: u64) -> Result<(), String> {
        let sum = messages.wrapping_mul(messages.wrapping_sub(1)) / 2;
        if self.messages == messages && self.sum == sum {
            return Ok(());
        }
        Err(format!("read {} messages of {messages}, or not each once", self.messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_numbers() {
        let mut payload = Payload::new(100);
        let (key, body) = payload.message(12_345);
        assert_eq!((key, body.len()), (&b"category.0000345"[..], 100));
        assert_eq!(number_of(body), Some(12_345));
        assert_eq!(payload.len(), 116);
    }

    #[test]
    fn a_reader_that_skips_or_repeats_is_found_out() {
        let count = |numbers: &[u64]| {
            let mut count = Count::default();
            numbers.iter().for_each(|number| count.add(&number.to_le_bytes()));
            count.check(3).is_ok()
        };
        assert!(count(&[0, 1, 2]));
        assert!(!count(&[0, 1]) && !count(&[0, 1, 1]) && !count(&[0, 1, 2, 2]));
    }
}
