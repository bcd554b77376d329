//! Whether a JPEG file is all there.
//!
//! The decoder fills what is missing with grey and says nothing, so the end has to be looked for.

/// Start of image, restart markers and the like carry no length.
fn stands_alone(marker: u8) -> bool {
    matches!(marker, 0x01 | 0xD0..=0xD8)
}

const SCAN: u8 = 0xDA;
const END: u8 = 0xD9;

/// Checks that the segments of a JPEG file lead to an end marker behind at least one scan.
/// Thumbnails inside of metadata are skipped with their segment; bytes behind the end are allowed.
///
/// # Errors
/// Where the data ends, in words.
pub(super) fn complete(bytes: &[u8]) -> Result<(), &'static str> {
    let mut at = 0;
    let mut scans = 0;
    loop {
        // Between segments, and inside of a scan, look for 0xFF that starts a marker.
        let Some(found) = bytes[at..].iter().position(|&b| b == 0xFF) else {
            return Err(where_it_ends(scans));
        };
        at += found + 1;
        match bytes.get(at) {
            None => return Err(where_it_ends(scans)),
            // A stuffed zero inside of a scan, or a fill byte, which may start a marker itself.
            Some(0x00) => at += 1,
            Some(0xFF) => {}
            Some(&END) if scans > 0 => return Ok(()),
            Some(&marker) if stands_alone(marker) || marker == END => at += 1,
            Some(&marker) => {
                let Some(length) = bytes.get(at + 1..at + 3) else {
                    return Err(where_it_ends(scans));
                };
                at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                if at > bytes.len() {
                    return Err(where_it_ends(scans));
                }
                scans += usize::from(marker == SCAN);
            }
        }
    }
}

fn where_it_ends(scans: usize) -> &'static str {
    if scans == 0 {
        "no picture data after the header"
    } else {
        "no end marker after the picture data"
    }
}

#[cfg(test)]
mod tests {
    use super::complete;

    /// Start, a metadata segment that holds a whole small "JPEG", a scan with a stuffed byte, end.
    const WHOLE: &[u8] = &[
        0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD8, 0xFF, 0xD9, 0xFF, 0xDA, 0, 3, 1, 7, 0xFF, 0, 7,
        0xFF, 0xD0, 9, 0xFF, 0xFF, 0xD9, 1, 2,
    ];

    #[test]
    fn the_end_is_found_and_its_absence_too() {
        assert_eq!(complete(WHOLE), Ok(()));
        for length in 0..WHOLE.len() - 2 {
            assert!(complete(&WHOLE[..length]).is_err(), "cut to {length} bytes");
        }
    }
}
