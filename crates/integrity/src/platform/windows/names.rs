//! Names are UTF-16, mostly: any 16-bit units but a few. Records keep them as bytes in WTF-8, which is UTF-8 with room for
//! surrogates that have no partner (<https://wtf-8.codeberg.page/>), and paths are made of them by `/`, which no name can hold.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use windows_sys::Win32::Globalization::{CSTR_EQUAL, CompareStringOrdinal};

/// The bytes of a path, as records keep them.
pub(crate) fn from_path(path: &Path) -> Vec<u8> {
    let units: Vec<u16> = path.as_os_str().encode_wide().collect();
    from_units(&units)
}

/// The path that records keep as `bytes`.
pub(crate) fn to_path(bytes: &[u8]) -> PathBuf {
    let separated: Vec<u16> =
        to_units(bytes).into_iter().map(|unit| if unit == u16::from(b'/') { u16::from(b'\\') } else { unit }).collect();
    PathBuf::from(OsString::from_wide(&separated))
}

/// The bytes of a name.
pub(super) fn from_units(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let [high, low] = lone.unpaired_surrogate().to_be_bytes();
                bytes.extend([0xE0 | high >> 4, 0x80 | (high & 0xF) << 2 | low >> 6, 0x80 | low & 0x3F]);
            }
        }
    }
    bytes
}

/// The name that `bytes` stand for. What is neither UTF-8 nor a surrogate, which no name gives, becomes U+FFFD.
pub(super) fn to_units(bytes: &[u8]) -> Vec<u16> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        let valid = match std::str::from_utf8(rest) {
            Ok(_) => rest.len(),
            Err(error) => error.valid_up_to(),
        };
        let (text, other) = rest.split_at(valid);
        units.extend(String::from_utf8_lossy(text).encode_utf16());
        match *other {
            [] => return units,
            [0xED, second @ 0xA0..=0xBF, third @ 0x80..=0xBF, ..] => {
                units.push(0xD000 | u16::from(second & 0x3F) << 6 | u16::from(third & 0x3F));
                rest = &other[3..];
            }
            _ => {
                units.push(0xFFFD);
                rest = &other[1..];
            }
        }
    }
}

/// What a user gave as a path inside a store, with `/` between the names; `None` if no name can be like that: a colon would lead to a
/// stream of another.
pub(crate) fn given(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    if bytes.contains(&b':') {
        return None;
    }
    Some(bytes.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect())
}

/// Whether two names, or paths, are the same to the filesystem, which looks at no case.
pub(crate) fn same_name(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    let (one, other) = (to_units(one), to_units(other));
    if one.len() != other.len() {
        return false;
    }
    let Ok(length) = i32::try_from(one.len()) else { return false };
    // SAFETY: both have that length and live until the call returns.
    unsafe { CompareStringOrdinal(one.as_ptr(), length, other.as_ptr(), length, 1) == CSTR_EQUAL }
}

/// As the command interpreters take it for one word.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || r"-_./:@+=\".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{word}\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_makes_no_other_name() {
        assert!(same_name("Notes/ÄRGER.md".as_bytes(), "notes/ärger.MD".as_bytes()));
        assert!(!same_name(b"a", b"b"));
        assert!(!same_name(b"a", b"ab"));
    }

    proptest! {
        #[test]
        fn every_name_comes_back(units: Vec<u16>) {
            prop_assert_eq!(to_units(&from_units(&units)), units);
        }

        #[test]
        fn text_is_utf_8(text: String) {
            let units: Vec<u16> = text.encode_utf16().collect();
            prop_assert_eq!(from_units(&units), text.as_bytes());
        }

        #[test]
        fn any_bytes_become_some_name(bytes: Vec<u8>) {
            prop_assert!(to_units(&bytes).len() <= bytes.len());
        }
    }
}
