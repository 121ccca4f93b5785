//! The decoders one by one, on the bytes as they come and again with right checksums, to get behind them.

use crate::bytes::{VARINT_LEN_MAX, field, put, put_varint};
use crate::control::Tail;
use crate::files::{CleanMark, Format};
use crate::frame::{
    Batch, Fault, Filter, FrameHeader, HEADER_LEN, KeyHash, Records, check_records, decode_frame,
    filter_len,
};
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader};

const SALT: u32 = 0xfeed;

pub(super) fn frame(data: &[u8]) {
    check_frame(data);
    let (Some(head), rest) = (data.first_chunk::<HEADER_LEN>(), data.get(HEADER_LEN..)) else {
        return;
    };
    check_frame(&resealed(head, rest.unwrap_or_default()));
}

/// The same frame with its magic, length and checksums put right; its filter is taken off the front of `rest`
/// if that has enough for it.
pub(super) fn resealed(head: &[u8; HEADER_LEN], rest: &[u8]) -> Vec<u8> {
    let mut header = *head;
    let blocks = field(head, 46).map_or(0, u16::from_le_bytes);
    let mut rest = rest.to_vec();
    let filter = filter_len(usize::from(blocks)).min(rest.len());
    let body_crc = reseal_rest(&mut rest, filter);
    put(&mut header, 0, *b"BLF1");
    put(&mut header, 8, u32::try_from(rest.len() - filter).unwrap_or(u32::MAX).to_le_bytes());
    put(&mut header, 12, body_crc.to_le_bytes());
    reseal_header(&mut header, SALT);
    let mut bytes = [&header[..], &rest].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Puts the checksum of a frame's filter right, which is followed by the body; returns that of the body.
pub(super) fn reseal_rest(rest: &mut [u8], filter: usize) -> u32 {
    let (filter, body) = rest.split_at_mut(filter);
    let body_crc = crc32fast::hash(body);
    if let Some((crc, blocks)) = filter.split_at_mut_checked(4) {
        let mut hasher = crc32fast::Hasher::new_with_initial(body_crc);
        hasher.update(blocks);
        put(crc, 0, hasher.finalize().to_le_bytes());
    }
    body_crc
}

/// Puts the checksum of a frame's header right.
pub(super) fn reseal_header(header: &mut [u8; HEADER_LEN], salt: u32) {
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(header.get(8..).unwrap_or_default());
    put(header, 4, crc.finalize().to_le_bytes());
}

fn check_frame(bytes: &[u8]) {
    let Ok((header, body)) = decode_frame(bytes, SALT) else { return };
    let head = bytes.first_chunk::<HEADER_LEN>().expect("the header was decoded");
    assert_eq!(&header.encode(SALT), head, "there is one spelling of a header");
    assert_eq!(body.len(), header.body_len as usize);
    assert_eq!(Records::new(body).count(), header.count as usize);
    assert!(header.end_seq() > header.base_seq && header.frame_len() <= bytes.len() as u64);
    let filter = header.check_filter(bytes.get(HEADER_LEN..).unwrap_or_default());
    let filter = filter.expect("the filter was decoded");
    assert!(Records::new(body).all(|record| filter.may_hold(KeyHash::of(record.key))));
}

pub(super) fn frame_seeds() -> Vec<Vec<u8>> {
    let mut batch = Batch::new(20_000);
    let mut push = |key: &[u8], value: &[u8]| {
        batch.push(key, b"meta", value).expect("it is short");
    };
    push(b"key", b"value");
    push(b"", &[7; 200]);
    let plain = batch.encode(41, 30, 1_000, SALT).to_vec();
    // Long enough for a filter.
    batch.push(b"other", b"", &[0; 16_000]).expect("it is short");
    vec![plain, batch.encode(41, 30, 1_000, SALT).to_vec(), vec![0; 64]]
}

pub(super) fn records(data: &[u8]) {
    let mut again = Vec::new();
    let mut records = Records::new(data);
    for record in records.by_ref() {
        let lens = [record.key.len(), record.meta.len(), record.value.len()];
        for value in [record.delta_us].into_iter().chain(lens.map(|len| len as u64)) {
            let mut out = [0; VARINT_LEN_MAX];
            let end = put_varint(&mut out, 0, value);
            again.extend_from_slice(out.get(..end).unwrap_or_default());
        }
        again.extend([record.key, record.meta, record.value].concat());
        assert_eq!(record.time_us(i64::MAX), i64::MAX);
    }
    assert!(data.starts_with(&again), "there is one spelling of a record");
    assert_eq!(records.is_complete(), again.len() == data.len());
    let header = FrameHeader {
        body_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
        body_crc: 0,
        base_seq: 0,
        synced_seq: 0,
        time_us: i64::MAX,
        count: 1,
        filter_blocks: 0,
    };
    let checked = check_records(&header, Filter::NONE, data);
    assert!(matches!(checked, Ok(_) | Err(Fault::Record)));
}

pub(super) fn records_seeds() -> Vec<Vec<u8>> {
    let body = |frame: &Vec<u8>| decode_frame(frame, SALT).map(|(_, body)| body.to_vec()).ok();
    frame_seeds().iter().filter_map(body).collect()
}

pub(super) fn segment_header(data: &[u8]) {
    check_segment_header(data);
    if let Some(head) = data.first_chunk::<SEGMENT_HEADER_LEN>() {
        check_segment_header(&resealed_segment(head));
    }
}

/// The same header with its magic, version and checksum put right.
pub(super) fn resealed_segment(head: &[u8; SEGMENT_HEADER_LEN]) -> [u8; SEGMENT_HEADER_LEN] {
    let mut header = *head;
    put(&mut header, 0, *b"BLS1");
    put(&mut header, 8, crate::files::VERSION.to_le_bytes());
    let crc = crc32fast::hash(header.get(8..).unwrap_or_default());
    put(&mut header, 4, crc.to_le_bytes());
    header
}

fn check_segment_header(bytes: &[u8]) {
    if let Ok(header) = SegmentHeader::decode(bytes) {
        assert!(bytes.starts_with(&header.encode()), "there is one spelling of a header");
        assert!(header.prev_end <= header.base_seq);
    }
}

pub(super) fn segment_header_seeds() -> Vec<Vec<u8>> {
    let header = SegmentHeader {
        salt: 3,
        log_id: 1 << 100,
        base_seq: 9,
        prev_end: 8,
        synced_seq: 7,
        created_us: -1,
        prev_time_us: 5,
    };
    vec![header.encode().to_vec()]
}

pub(super) fn small_files(data: &[u8]) {
    let sealed = [data, &crc32fast::hash(data).to_le_bytes()].concat();
    for bytes in [data, &sealed] {
        if let Some(format) = Format::decode(bytes) {
            assert_eq!(Format::decode(&format.encode()), Some(format));
        }
        if let Some(mark) = CleanMark::decode(bytes) {
            assert_eq!(mark.encode(), bytes, "there is one spelling of a mark");
        }
    }
    let name = String::from_utf8_lossy(data);
    if let Some(base) = crate::segment::parse_name(&name) {
        assert_eq!(crate::segment::name(base), name);
    }
}

pub(super) fn small_files_seeds() -> Vec<Vec<u8>> {
    let tail = Tail { active_base: 1, seq: 2, pos: 64, last_time_us: -5 };
    let files = [
        Format { id: 7, label: b"topic".to_vec() }.encode(),
        CleanMark { log_id: 9, tail }.encode(),
        crate::segment::name(42).into_bytes(),
    ];
    // With and without the checksum: the target adds one.
    let bare = |file: &[u8]| file.get(..file.len().saturating_sub(4)).unwrap_or_default().to_vec();
    files.iter().flat_map(|file| [file.clone(), bare(file)]).collect()
}
