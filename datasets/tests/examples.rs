//! Opens each example of `formats.md`, and finds in it what the page says.

use vlm_datasets::Dataset;

fn open(spec: &str, default_split: &str) -> Dataset {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/");
    Dataset::open(&format!("{path}{spec}"), default_split).unwrap()
}

fn refs(set: &Dataset) -> Vec<&str> {
    set.samples.iter().map(|sample| sample.image_ref.as_str()).collect()
}

#[test]
fn texts_beside_pictures() {
    let set = open("folder", "test");
    assert_eq!(refs(&set), ["apple.png", "banana.png", "cat.png", "dog.png"]);
    assert_eq!(set.samples[0].captions, ["a red apple", "fruit with a green leaf"]);
    assert!(set.labels.is_empty());
}

#[test]
fn a_table() {
    let set = open("csv", "test");
    assert_eq!(refs(&set), ["apple.png", "banana.png", "dog.png", "cat.png"]);
    assert_eq!(set.samples[0].captions, ["a red apple", "an apple, with a green leaf"]);
    assert_eq!(set.labels, ["animal", "fruit"]);
    assert_eq!(open("csv/captions.csv", "test").samples.len(), 4);
}

#[test]
fn json_lines_with_splits_and_a_list_of_labels() {
    let (train, test) = (open("jsonl", "train"), open("jsonl", "test"));
    assert_eq!(refs(&train), ["apple.png", "banana.png", "dog.png"]);
    assert_eq!(refs(&test), ["cat.png"]);
    assert_eq!(refs(&open("jsonl:test", "train")), ["cat.png"]);
    assert_eq!(train.samples[0].group.as_deref(), Some("apple"));
    assert_eq!(train.labels, ["fruit", "animal"]);
    assert_eq!(test.truth().unwrap(), [1]);
}

#[test]
fn a_folder_a_class() {
    let set = open("classes", "test");
    assert_eq!(set.labels, ["banana", "cat", "dog", "red apple"]);
    assert_eq!(set.truth().unwrap(), [0, 1, 2, 3]);
    assert_eq!(refs(&set)[3], "red_apple/1.png");
}

#[test]
fn every_picture_is_one() {
    for (spec, split) in [("folder", ""), ("csv", ""), ("jsonl", "train"), ("classes", "")] {
        for sample in open(spec, split).samples {
            let picture = image::open(&sample.image).expect(&sample.origin);
            assert_eq!((picture.width(), picture.height()), (64, 64), "{}", sample.origin);
        }
    }
}
