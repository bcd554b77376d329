//! Indexes of pictures of one colour, whose features are their colours.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use vlm_encoders::image::{ImageProcessor, Pixels, Resize};
use vlm_encoders::{Error as ModelError, PictureEncoder};

use super::*;

/// Red, green and blue as a feature.
struct Colours(ImageProcessor);

impl Colours {
    fn new() -> Self {
        let mut processor = ImageProcessor::clip(2, [0.0; 3], [1.0; 3]);
        processor.resize = Some(Resize::Exact { height: 2, width: 2 });
        Colours(processor)
    }
}

impl PictureEncoder for Colours {
    fn processor(&self) -> Result<&ImageProcessor, ModelError> {
        Ok(&self.0)
    }

    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, ModelError> {
        let values: Vec<f32> = pictures
            .iter()
            .flat_map(|picture| picture.values().chunks(4).map(|c| c[0]).collect::<Vec<_>>())
            .collect();
        Ok(Tensor::from_data(TensorData::new(values, [pictures.len(), 3]), &Device::flex()))
    }
}

struct Set {
    dir: tempfile::TempDir,
}

impl Set {
    fn new() -> Self {
        let set = Set { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(set.model()).unwrap();
        fs::write(set.model().join("config.json"), "{}").unwrap();
        fs::create_dir_all(set.place().pictures).unwrap();
        set
    }

    fn place(&self) -> Place {
        let pictures = self.dir.path().join("pictures");
        Place { index: pictures.join(".vlm-search"), pictures }
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn add(&self, name: &str, colour: [u8; 3]) {
        let path = self.place().pictures.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(3, 3, image::Rgb(colour)).save(path).unwrap();
    }

    /// `count` pictures from black-ish blue to bright.
    fn add_many(&self, count: usize) {
        for i in 0..count {
            self.add(&format!("many/{i:04}.png"), [0, (i % 200) as u8, 200]);
        }
    }

    fn open(&self) -> Index {
        Index::open(&self.place(), &self.model()).unwrap()
    }

    fn updated(&self) -> (Index, Compared) {
        let mut index = self.open();
        let before = index.compared();
        let lock = self.place().lock().unwrap().unwrap();
        assert!(index.update(&lock, &Colours::new(), &mut |_| true).unwrap());
        (index, before)
    }

    /// The files of the index, without the lock.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.place().index)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "lock")
            .collect();
        names.sort();
        names
    }
}

fn query(colour: [f32; 3]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(colour.to_vec(), [1, 3]), &Device::flex())
}

fn names(index: &Index, colour: [f32; 3], top: usize) -> Vec<String> {
    let hits = index.search(query(colour), top).unwrap();
    hits.iter().map(|hit| hit.name.to_str().unwrap().replace('\\', "/")).collect()
}

#[test]
fn only_what_has_changed_is_looked_at() {
    let set = Set::new();
    set.add("red.png", [255, 0, 0]);
    set.add("deep/er/green.PNG", [0, 255, 0]);
    set.add("deep/blue.png", [0, 0, 255]);
    let (index, before) = set.updated();
    assert_eq!(before, Compared { fresh: 3, ..Compared::default() });
    assert_eq!(
        names(&index, [1.0, 0.2, 0.1], 9),
        ["red.png", "deep/er/green.PNG", "deep/blue.png"]
    );
    let index = set.open();
    assert!(!index.is_outdated());
    assert_eq!(names(&index, [0.0, 0.0, 9.0], 1), ["deep/blue.png"]);
    assert_eq!(index.features_of(Path::new("red.png")), Some(&[1.0, 0.0, 0.0][..]));

    // One new, one changed, one gone.
    set.add("white.png", [255, 255, 255]);
    set.add("red.png", [255, 250, 0]);
    fs::remove_file(set.place().pictures.join("deep/blue.png")).unwrap();
    let (_, before) = set.updated();
    assert_eq!(before, Compared { ready: 1, fresh: 2, gone: 2, ..Compared::default() });
    let index = set.open();
    assert_eq!(index.compared(), Compared { ready: 3, ..Compared::default() });
    assert_eq!(names(&index, [0.0, 0.0, 1.0], 9)[0], "white.png");
    let unit = index.features_of(Path::new("red.png")).unwrap();
    assert!((unit.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6 && unit[1] > 0.6);
}

#[test]
fn equal_pictures_come_by_name_whatever_the_order_of_blocks() {
    let set = Set::new();
    for name in ["c.png", "b/x.png", "a.png"] {
        set.add(name, [9, 9, 9]);
        set.updated();
    }
    assert_eq!(names(&set.open(), [1.0, 1.0, 1.0], 2), ["a.png", "b/x.png"]);
}

#[test]
fn what_was_stopped_or_killed_goes_on() {
    let set = Set::new();
    set.add_many(300);
    let mut index = set.open();
    let lock = set.place().lock().unwrap().unwrap();
    assert!(set.place().lock().unwrap().is_none(), "two may write");
    let mut steps = Vec::new();
    let done = index.update(&lock, &Colours::new(), &mut |step| {
        steps.push((step.done, step.of, step.more));
        step.done < 64
    });
    assert!(!done.unwrap());
    assert_eq!(steps, [(0, 300, 0), (32, 300, 32), (64, 300, 32)]);
    drop(lock);
    // What a kill in the middle of writing leaves.
    fs::write(set.place().index.join("block-000007.safetensors"), "half").unwrap();
    fs::write(set.place().index.join(".writing-x"), "half").unwrap();
    let (index, before) = set.updated();
    assert_eq!(before, Compared { ready: 64, fresh: 236, ..Compared::default() });
    assert_eq!(index.compared(), Compared { ready: 300, ..Compared::default() });
    assert_eq!(set.open().compared(), index.compared());
    assert!(!set.files().iter().any(|name| name.contains("7.") || name.contains("writing")));
}

#[test]
fn many_small_blocks_become_one() {
    let set = Set::new();
    for i in 0..12 {
        set.add(&format!("{i}.png"), [i, 20, 40]);
        set.updated();
    }
    assert!(set.files().len() <= 2 * update::MANY + 1, "{:?}", set.files());
    assert_eq!(set.open().compared(), Compared { ready: 12, ..Compared::default() });
}

#[test]
fn damage_costs_its_block_only() {
    let set = Set::new();
    set.add("a.png", [1, 2, 3]);
    set.updated();
    set.add("b.png", [3, 2, 1]);
    let (whole, _) = set.updated();
    let files = set.files();
    assert_eq!(
        files,
        [
            "block-000000.json",
            "block-000000.safetensors",
            "block-000001.json",
            "block-000001.safetensors",
            "index.json"
        ]
    );
    let path = |name: &str| set.place().index.join(name);
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("block-000001.safetensors", |bytes| bytes.truncate(bytes.len() - 1)),
        ("block-000001.safetensors", |bytes| bytes.clear()),
        ("block-000001.safetensors", |bytes| {
            let at = bytes.len() - 4;
            bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        ("block-000001.json", |bytes| bytes.truncate(30)),
        ("block-000001.json", |bytes| *bytes = b"{\"format\":99}".to_vec()),
    ];
    for (i, (name, damage)) in damages.into_iter().enumerate() {
        let mut bytes = fs::read(path(name)).unwrap();
        damage(&mut bytes);
        fs::write(path(name), bytes).unwrap();
        let (index, before) = set.updated();
        assert_eq!((before.ready, before.fresh, before.damaged), (1, 1, 1), "{name} {i}");
        assert_eq!(names(&index, [1.0, 0.0, 0.0], 9), names(&whole, [1.0, 0.0, 0.0], 9));
        assert!(!set.open().is_outdated(), "{name} {i}: {:?}", set.open().compared());
        // The new block has another number: give it the old one back.
        for name in set.files().iter().filter(|name| name.starts_with("block-")) {
            if !name.contains("000000") {
                let ending = name.rsplit('.').next().unwrap();
                fs::rename(path(name), path(&format!("block-000001.{ending}"))).unwrap();
            }
        }
    }
    // Features of another list.
    fs::copy(path("block-000000.safetensors"), path("block-000001.safetensors")).unwrap();
    assert_eq!(set.open().compared().damaged, 1);
    fs::write(path("index.json"), "[").unwrap();
    assert_eq!(set.open().compared().ready, 1);
}

#[test]
fn another_model_is_noticed_and_a_copied_one_is_not() {
    let set = Set::new();
    set.add("a.png", [1, 2, 3]);
    set.updated();
    let config = set.model().join("config.json");
    // Written again with the same contents.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
    fs::File::options().append(true).open(&config).unwrap().set_modified(later).unwrap();
    assert_eq!(set.open().compared(), Compared { ready: 1, ..Compared::default() });
    fs::write(&config, "{ }").unwrap();
    let other = set.open();
    assert_eq!(other.compared(), Compared { fresh: 1, foreign: true, ..Compared::default() });
    // The old features go when the new ones are there, and not before.
    fs::write(&config, "{}").unwrap();
    assert_eq!(set.open().compared().ready, 1);
    fs::write(&config, "{ }").unwrap();
    set.updated();
    assert_eq!(set.open().compared(), Compared { ready: 1, ..Compared::default() });
    assert_eq!(set.files().len(), 3);
}

#[test]
fn an_index_is_of_one_folder() {
    let set = Set::new();
    set.add("a.png", [1, 2, 3]);
    set.updated();
    let other = tempfile::tempdir().unwrap();
    let place = Place { pictures: other.path().to_owned(), index: set.place().index };
    let message = Index::open(&place, &set.model()).unwrap_err().to_string();
    assert!(message.contains("--index") && message.contains("pictures"), "{message}");
    // The folder may move, with its index or without.
    let moved = set.dir.path().join("moved");
    fs::rename(set.place().pictures, &moved).unwrap();
    let place = Place { index: moved.join(".vlm-search"), pictures: moved };
    assert_eq!(Index::open(&place, &set.model()).unwrap().compared().ready, 1);
}

#[test]
fn pictures_that_cannot_be_used_are_named_and_remembered() {
    let set = Set::new();
    set.add("good.png", [1, 2, 3]);
    set.add("black.png", [0, 0, 0]);
    let pictures = set.place().pictures;
    fs::write(pictures.join("empty.png"), "").unwrap();
    fs::write(pictures.join("text.jpg"), "words").unwrap();
    fs::write(pictures.join("photo.heic"), "").unwrap();
    fs::write(pictures.join("notes.txt"), "").unwrap();
    fs::write(pictures.join(".hidden.png"), "").unwrap();
    let (index, _) = set.updated();
    let told = |index: &Index| -> Vec<(String, String)> {
        let told = |s: Skipped| (s.name.to_str().unwrap().to_owned(), s.reason);
        index.skipped().into_iter().map(told).collect()
    };
    let skipped = told(&index);
    let wanted = [
        ("black.png", "no numbers"),
        ("empty.png", "the file is empty"),
        ("photo.heic", "format is not read"),
        ("text.jpg", "not a picture"),
    ];
    assert_eq!(skipped.len(), wanted.len(), "{skipped:?}");
    for ((name, reason), (wanted, words)) in skipped.iter().zip(wanted) {
        assert!(name == wanted && reason.contains(words), "{name}: {reason}");
        assert!(!reason.contains(".png") && !reason.contains('\n'), "{reason}");
    }
    let index = set.open();
    assert_eq!((told(&index), index.is_outdated()), (skipped, false));
    set.add("empty.png", [7, 7, 7]);
    let (index, before) = set.updated();
    assert_eq!((before.ready, before.fresh), (1, 1));
    assert_eq!(index.compared().ready, 2);
}

#[test]
fn a_picture_that_vanishes_meanwhile_is_no_error() {
    let set = Set::new();
    set.add("a.png", [1, 2, 3]);
    set.add("b.png", [1, 2, 3]);
    let mut index = set.open();
    fs::remove_file(set.place().pictures.join("b.png")).unwrap();
    let lock = set.place().lock().unwrap().unwrap();
    assert!(index.update(&lock, &Colours::new(), &mut |_| true).unwrap());
    assert_eq!(index.skipped()[0].reason, "has vanished since the folder was read");
    assert_eq!(set.open().compared(), Compared { ready: 1, ..Compared::default() });
}

#[cfg(unix)]
#[test]
fn links_and_odd_names() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let set = Set::new();
    let pictures = set.place().pictures;
    set.add("a.png", [1, 2, 3]);
    let elsewhere = set.dir.path().join("elsewhere.png");
    fs::copy(pictures.join("a.png"), &elsewhere).unwrap();
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"\xff\xfe.png"));
    fs::copy(pictures.join("a.png"), pictures.join(odd)).unwrap();
    symlink(&elsewhere, pictures.join("link.png")).unwrap();
    symlink("a.png", pictures.join("same.png")).unwrap();
    symlink("loop.png", pictures.join("loop.png")).unwrap();
    symlink("nothing", pictures.join("lost.png")).unwrap();
    symlink(".", pictures.join("circle")).unwrap();
    symlink("..", pictures.join("folder.png")).unwrap();
    set.updated();
    let index = set.open();
    assert!(!index.is_outdated());
    let hits = index.search(query([1.0, 1.0, 1.0]), 9).unwrap();
    let found: Vec<&Path> = hits.iter().map(|hit| hit.name.as_path()).collect();
    assert_eq!(found, [Path::new("a.png"), Path::new("link.png"), odd]);
    let skipped = index.skipped();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert!(skipped[0].reason.contains("symbolic links"), "{skipped:?}");
    assert!(skipped[1].reason.contains("nowhere"), "{skipped:?}");
}

#[test]
fn a_query_of_another_width_is_refused() {
    let set = Set::new();
    set.add("a.png", [1, 2, 3]);
    let (index, _) = set.updated();
    let query = Tensor::<2>::ones([1, 4], &Device::flex());
    let message = index.search(query, 1).unwrap_err().to_string();
    assert!(message.contains("3 values") && message.contains('4'), "{message}");
    let none = Tensor::<2>::zeros([1, 3], &Device::flex());
    assert!(index.search(none, 1).is_err());
}
