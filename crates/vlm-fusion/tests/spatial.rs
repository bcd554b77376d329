//! Boxes as Kosmos-2's own processor writes and reads them, round trips, and garbage.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use vlm_fusion::spatial::{BBox, Codec, Located, find, find_points};

#[derive(Deserialize)]
struct Golden {
    boxes: Vec<Case>,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Case {
    given: [f64; 4],
    text: String,
    decoded: [f64; 4],
}

#[derive(Deserialize)]
struct Text {
    text: String,
    entities: Vec<(Option<String>, Vec<[f64; 4]>)>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/spatial/kosmos.json")).unwrap()
}

#[test]
fn kosmos_writes_and_reads_as_transformers() {
    for case in golden().boxes {
        let bbox = BBox::new(case.given).unwrap();
        let said = Codec::Kosmos2.encode(&[Located::new("a thing", bbox)]);
        assert_eq!(said, case.text);
        let found = Codec::Kosmos2.decode(&said);
        assert_eq!(found[0].bbox.corners(), case.decoded, "{said}");
        assert_eq!(found[0].label.as_deref(), Some("a thing"));
    }
}

#[test]
fn kosmos_finds_entities_as_transformers() {
    for case in golden().texts {
        let wanted: Vec<(Option<String>, [f64; 4])> = case
            .entities
            .into_iter()
            .flat_map(|(label, boxes)| boxes.into_iter().map(move |b| (label.clone(), b)))
            .collect();
        let found: Vec<_> =
            find(&case.text).into_iter().map(|l| (l.label, l.bbox.corners())).collect();
        assert_eq!(found, wanted, "{}", case.text);
    }
}

fn random_box(rng: &mut ChaCha8Rng) -> BBox {
    BBox::new(std::array::from_fn(|_| rng.random::<f64>())).unwrap()
}

#[test]
fn boxes_come_back_within_half_a_bin() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..3000 {
        let bbox = random_box(&mut rng);
        for (codec, bins) in [
            (Codec::PaliGemma, 1023.0),
            (Codec::Kosmos2, 32.0),
            (Codec::Numbers, 1000.0),
            (Codec::Hundredths, 100.0),
        ] {
            let located = [Located::new("x", bbox)];
            let said = codec.encode(&located);
            let [found] = &codec.decode(&said)[..] else { panic!("{said}") };
            assert_eq!(find(&said), std::slice::from_ref(found));
            // Kosmos-2 decodes boxes of one row or column to the edges of their cells.
            let [l, t, r, b] = found.bbox.corners().map(|share| (share * 32.0).fract());
            let edges = codec == Codec::Kosmos2 && [l, t, r, b] == [0.0; 4];
            let most = if edges { 1.0 } else { 0.5 } / bins + 1e-12;
            for (a, b) in found.bbox.corners().iter().zip(bbox.corners()) {
                assert!((a - b).abs() <= most, "{said}: {a} {b}");
            }
        }
        let point = bbox.middle();
        for (codec, bins) in
            [(Codec::PaliGemma, 1023.0), (Codec::Numbers, 1000.0), (Codec::Hundredths, 100.0)]
        {
            let said = codec.encode_point(point).unwrap();
            let [found] = codec.decode_points(&said)[..] else { panic!("{said}") };
            assert!(found.iter().zip(point).all(|(a, b)| (a - b).abs() <= 0.5 / bins + 1e-12));
        }
    }
}

#[test]
fn several_boxes_with_labels_come_back() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for codec in [Codec::PaliGemma, Codec::Kosmos2, Codec::Numbers, Codec::Hundredths] {
        for _ in 0..200 {
            let count = rng.random_range(0..5);
            let labels = ["red cat", "dog", "a \u{e9}t\u{e9}"];
            let boxes: Vec<Located> = (0..count)
                .map(|_| Located::new(labels[rng.random_range(0..3)], random_box(&mut rng)))
                .collect();
            let once = codec.decode(&codec.encode(&boxes));
            let names =
                |list: &[Located]| -> Vec<_> { list.iter().map(|l| l.label.clone()).collect() };
            assert_eq!(names(&once), names(&boxes));
            // What was read once is written the same again, but for Kosmos-2's edges of cells.
            if codec != Codec::Kosmos2 {
                assert_eq!(codec.encode(&once), codec.encode(&boxes));
            }
        }
    }
    for codec in [Codec::PaliGemma, Codec::Kosmos2, Codec::Numbers, Codec::Hundredths] {
        assert_eq!(codec.decode(&codec.encode(&[])), []);
    }
    assert_eq!(Codec::PaliGemma.tokens()[1023], "<loc1023>");
    assert_eq!(Codec::Kosmos2.tokens().len(), 1024 + 5);
}

/// Pieces of answers, put together at random, cut anywhere.
#[test]
fn garbage_is_no_harm_and_boxes_are_whole() {
    let pieces = [
        "<loc0000>",
        "<loc1023>",
        "<loc1024>",
        "<loc",
        "<locabcd>",
        "<object>",
        "</object>",
        "<patch_index_0000>",
        "<patch_index_1023>",
        "<patch_index_9999>",
        "<phrase>",
        "</phrase>",
        "</delimiter_of_multi_objects/>",
        "[",
        "]",
        "[0.1,0.2,0.3,0.4]",
        "0.5",
        ",",
        ";",
        "NaN",
        "inf",
        "-1",
        "1e308",
        "[0.9,0.9,0.1,0.1]",
        " cat ",
        "\u{1F600}",
        "\u{e9}",
        "\n",
        "<",
        ">",
        "[0.1,0.2]",
        "[1,1,1,1;0,0,0,0]",
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut boxes = 0;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..rng.random_range(0..12) {
            text += pieces[rng.random_range(0..pieces.len())];
        }
        let cut = text.floor_char_boundary(rng.random_range(0..=text.len()));
        for text in [&text[..cut], &text[cut..], &text] {
            for located in find(text) {
                let [left, top, right, bottom] = located.bbox.corners();
                let within = |low: f64, high: f64| 0.0 <= low && low <= high && high <= 1.0;
                assert!(within(left, right) && within(top, bottom), "{text}");
                boxes += 1;
            }
            for point in find_points(text) {
                assert!(point.iter().all(|share| (0.0..=1.0).contains(share)), "{text}");
            }
        }
    }
    assert!(boxes > 1000, "{boxes}");
}
