//! Damaged and lying files: an error that names the file, no panic, and no allocation that the
//! file does not back with bytes of its own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use tempfile::TempDir;
use vlm_store::{Error, Float, TensorFiles, TensorSpec, write_sharded};

/// Notes the largest allocation of each thread, since tests run side by side.
struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    LARGEST.set(LARGEST.get().max(size));
}

// SAFETY: hands every call on to the system's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        unsafe { System.realloc(old, layout, size) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static WATCHING: Watching = Watching;

/// A header, its true length before it, and as many bytes of data.
fn bytes(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// The message of opening these bytes.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.safetensors");
    std::fs::write(&path, bytes).unwrap();
    LARGEST.set(0);
    let opened = TensorFiles::open_file(&path);
    let largest = LARGEST.get();
    let error = match opened {
        Ok(files) => panic!("accepted {:?} of {:?}", files, String::from_utf8_lossy(bytes)),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("bad.safetensors"), "{message}");
    assert!(message.len() < 1000 && !message.contains('\n'), "{message}");
    assert!(largest < 4 * bytes.len() + (1 << 14), "allocated {largest} bytes for {message}");
    message
}

/// The message of a well-framed file with this header and so much data.
fn refused(header: &str, data: usize) -> String {
    refusal(&bytes(header, data))
}

const GOOD: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]}}"#;

#[test]
fn a_good_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good.safetensors");
    // Metadata and trailing spaces are part of the format.
    let header = GOOD.replacen('{', r#"{"__metadata__":{"format":"pt"},"#, 1) + "   ";
    std::fs::write(&path, bytes(&header, 12)).unwrap();
    let files = TensorFiles::open_file(&path).unwrap();
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(files.read("b").unwrap(), TensorData::from([[0f32, 0.0]]));
    assert!(files.read("c").unwrap_err().to_string().contains("no tensor `c`"));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = bytes(GOOD, 12);
    for len in 0..whole.len() {
        refusal(&whole[..len]);
    }
    assert!(refusal(b"").contains("only 0 bytes"));
    assert!(refused(GOOD, 13).contains("1 bytes belong to no tensor"));
}

#[test]
fn a_file_with_any_byte_changed_is_refused_or_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changed.safetensors");
    let whole = bytes(GOOD, 12);
    for at in 0..whole.len() {
        for byte in [0, 1, b'"', b'{', b'9', b',', 0x7f, 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            std::fs::write(&path, changed).unwrap();
            if let Ok(files) = TensorFiles::open_file(&path) {
                for name in files.names() {
                    // A type that is not read is the only error left: the bytes are there.
                    let read = files.read(name);
                    assert!(matches!(read, Ok(_) | Err(Error::Type { .. })), "{read:?}");
                }
            }
        }
    }
}

#[test]
fn a_header_longer_than_the_file_or_any_header_is_refused() {
    let claim = |len: u64| {
        let mut bytes = bytes(GOOD, 12);
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        refusal(&bytes)
    };
    assert!(claim(GOOD.len() as u64 + 13).contains("of a file of"));
    assert!(claim(99_000_000).contains("of a file of"));
    for len in [100_000_001, 1 << 32, 1 << 60, u64::MAX - 7, u64::MAX] {
        assert!(claim(len).contains("over the format's limit"), "{len}");
    }
    // A sparse file makes the length true of the file, but not of the format.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.safetensors");
    std::fs::write(&path, (1u64 << 33).to_le_bytes()).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len((1 << 33) + 8).unwrap();
    let message = TensorFiles::open_file(&path).unwrap_err().to_string();
    assert!(message.contains("over the format's limit"), "{message}");
}

#[test]
fn a_header_that_is_no_list_of_tensors_is_refused() {
    let deep = "[".repeat(10_000);
    let long = format!(r#"{{"{}":1}}"#, "x".repeat(50_000));
    for header in [
        "",
        "null",
        "[]",
        "{",
        "\u{0}{}",
        "{}x",
        r#"{"a":1}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"dtype":"F32","shape":[2]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,36893488147419103232]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"line\nbreak":0}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}"#,
        &deep,
        &long,
    ] {
        let message = refused(header, 8);
        assert!(message.contains("not a list of tensors in JSON"), "{message}");
    }
    let latin = [&8u64.to_le_bytes()[..], b"{\"\xe9\":1} "].concat();
    assert!(refusal(&latin).contains("not a list of tensors in JSON"));
    assert!(refused(r#"{"wte":{"shape":[2]}}"#, 8).contains("`wte`"));
}

#[test]
fn offsets_that_cannot_be_are_refused() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        let header =
            format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        refused(&header, 8)
    };
    for (shape, offsets) in [
        ("[2]", "[0,16]"),
        ("[2]", "[8,16]"),
        ("[2]", "[8,0]"),
        ("[2]", "[0,18446744073709551615]"),
        ("[2]", "[18446744073709551615,7]"),
        ("[1]", "[0,8]"),
        ("[3]", "[0,8]"),
        ("[]", "[0,8]"),
        ("[0]", "[0,8]"),
        // Each of these products is 2 when it wraps around.
        ("[9223372036854775809,2]", "[0,8]"),
        ("[4611686018427387904,4,2]", "[0,8]"),
        ("[4294967296,4294967296]", "[0,0]"),
        ("[18446744073709551615]", "[0,8]"),
    ] {
        let message = one("F32", shape, offsets);
        assert!(message.contains("tensor `w` F32 [") && message.contains("claims bytes"));
    }
    assert!(one("F16", "[2]", "[0,8]").contains("claims bytes"));
    assert!(one("F128", "[2]", "[0,8]").contains("unknown type F128"));
    let ones = format!("[2{}]", ",1".repeat(64));
    assert!(one("F32", &ones, "[0,8]").contains("65 dimensions"));
}

#[test]
fn tensors_that_overlap_or_leave_gaps_are_refused() {
    let two = |first: [u32; 2], second: [u32; 2], data| {
        let entry = |name: &str, [start, end]: [u32; 2]| {
            let count = (end - start) / 4;
            format!(
                r#""{name}":{{"dtype":"F32","shape":[{count}],"data_offsets":[{start},{end}]}}"#
            )
        };
        refused(&format!("{{{},{}}}", entry("a", first), entry("b", second)), data)
    };
    assert!(two([0, 8], [4, 12], 12).contains("overlap at byte 8"));
    assert!(two([0, 8], [0, 8], 8).contains("overlap at byte 8"));
    assert!(two([0, 8], [0, 12], 12).contains("overlap at byte 8"));
    assert!(two([0, 4], [8, 12], 12).contains("gap or overlap at byte 4"));
    assert!(two([4, 8], [8, 12], 12).contains("gap or overlap at byte 0"));
    assert!(two([0, 4], [4, 8], 12).contains("4 bytes belong to no tensor"));
}

#[test]
fn names_that_are_none_are_refused() {
    let entry = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let twice = refused(&format!(r#"{{"w":{entry},"w":{entry}}}"#), 8);
    assert!(twice.contains("`w` is there twice"), "{twice}");
    assert!(refused(&format!(r#"{{"a\nb":{entry}}}"#), 8).contains("no tensor can be called"));
    assert!(
        refused(&format!(r#"{{"{}":{entry}}}"#, "x".repeat(2000)), 8)
            .contains("no tensor can be called")
    );
}

#[test]
fn types_that_are_not_read_are_refused_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ids.safetensors");
    // Old CLIP files carry position ids, which nobody reads: opening must work.
    let header = r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    std::fs::write(&path, bytes(header, 8)).unwrap();
    let files = TensorFiles::open_file(&path).unwrap();
    let message = files.read("ids").unwrap_err().to_string();
    assert!(message.contains("ids.safetensors: tensor `ids` has type I64"), "{message}");
}

/// A folder of two shards, and the path of its index.
fn sharded() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let specs = ["a", "b"].map(|name| TensorSpec { name: name.into(), shape: vec![2] });
    let values = &mut |_: &str| TensorData::from([1f32, 2.0]);
    write_sharded(dir.path(), "model", Float::F32, 8, &specs, values).unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    (dir, index)
}

fn refused_folder(dir: &Path, file: &str) -> String {
    let message = TensorFiles::open_dir(dir, "model").unwrap_err().to_string();
    assert!(message.contains(file) && !message.contains('\n'), "{message}");
    message
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    const SECOND: &str = "model-00002-of-00002.safetensors";
    let (dir, index) = sharded();
    let text = std::fs::read_to_string(&index).unwrap();
    assert_eq!(TensorFiles::open_dir(dir.path(), "model").unwrap().names().count(), 2);

    for outside in ["../b.safetensors", "/etc/passwd", "sub/b.safetensors", "..", "."] {
        std::fs::write(&index, text.replace(SECOND, outside)).unwrap();
        let message = refused_folder(dir.path(), "model.safetensors.index.json");
        assert!(message.contains("outside the folder"), "{message}");
    }
    std::fs::write(&index, text.replace(SECOND, "")).unwrap();
    refused_folder(dir.path(), "model.safetensors.index.json");
    std::fs::write(&index, text.replace(SECOND, "gone.safetensors")).unwrap();
    refused_folder(dir.path(), "gone.safetensors");
    std::fs::write(&index, text.replace("\"b\"", "\"c\"")).unwrap();
    assert!(refused_folder(dir.path(), "index.json").contains("does not hold `c`"));
    for none in ["", "[]", "{}", r#"{"weight_map":{"a":1}}"#, r#"{"weight_map":[]}"#] {
        std::fs::write(&index, none).unwrap();
        assert!(refused_folder(dir.path(), "index.json").contains("not an index of shards"));
    }
    std::fs::File::create(&index).unwrap().set_len(1 << 40).unwrap();
    assert!(refused_folder(dir.path(), "index.json").contains("an index of 1099511627776 bytes"));

    std::fs::write(&index, &text).unwrap();
    let first = dir.path().join("model-00001-of-00002.safetensors");
    std::fs::copy(&first, dir.path().join(SECOND)).unwrap();
    assert!(refused_folder(dir.path(), SECOND).contains("`a` is in two shards"));
    std::fs::remove_file(dir.path().join(SECOND)).unwrap();
    refused_folder(dir.path(), SECOND);
    let none = tempfile::tempdir().unwrap();
    refused_folder(none.path(), "model.safetensors");
}

#[test]
fn shards_and_a_single_file_replace_each_other() {
    let (dir, index) = sharded();
    let write = |value: f32, max| {
        let specs = ["a", "b"].map(|name| TensorSpec { name: name.into(), shape: vec![2] });
        let values = &mut |_: &str| TensorData::from([value, value]);
        write_sharded(dir.path(), "model", Float::Bf16, max, &specs, values).unwrap();
        let files = TensorFiles::open_dir(dir.path(), "model").unwrap();
        assert_eq!(files.read("b").unwrap(), TensorData::from([value, value]));
        assert_eq!(files.dtype("b"), Some("BF16"));
    };
    write(3.0, 100);
    assert!(!index.exists());
    write(4.0, 4);
    assert!(index.exists());
}
