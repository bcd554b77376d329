use std::collections::{BTreeMap, HashMap};

use super::ask::Row;
use super::draw::SHAPES;
use super::layout::{COLORS, Thing};
use super::*;

fn small(name: &'static str, pictures: usize, unseen: bool) -> Vec<Scene> {
    scenes(7, &Split { name, pictures, unseen, taught: false })
}

fn rows(scenes: &[Scene], unseen: bool) -> Vec<(usize, Row)> {
    balance::rows(scenes, unseen, false, dice(7, u64::MAX))
}

/// FNV-1a.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn the_set_is_the_same_on_every_machine() {
    let scenes = scenes(1, &SPLITS[1]);
    let pixels = scenes[..200].iter().flat_map(|scene| draw::picture(scene).into_raw());
    let mut texts = String::new();
    for (i, row) in balance::rows(&scenes, false, false, dice(1, u64::MAX)) {
        texts += &line(&row.json(&file(&SPLITS[1], i)));
    }
    for scene in &scenes {
        texts += &words::captions(scene).join("\n");
    }
    let hashes = (hash(pixels), hash(texts.into_bytes()));
    assert_eq!(hashes, (15_820_135_133_526_613_012, 13_999_165_486_719_336_259));
}

#[test]
fn answers_of_a_form_are_equally_frequent() {
    for unseen in [false, true] {
        let scenes = small("a", 800, unseen);
        let mut counts: BTreeMap<String, HashMap<String, usize>> = BTreeMap::new();
        for (_, row) in rows(&scenes, unseen) {
            if let Some(answer) = row.answer {
                *counts.entry(row.form).or_default().entry(answer).or_default() += 1;
            }
        }
        let forms = if unseen { 15 } else { 18 };
        assert_eq!(counts.len(), forms, "{:?}", counts.keys());
        for (form, counts) in counts {
            let (most, least) = (counts.values().max().unwrap(), counts.values().min().unwrap());
            assert!(counts.len() > 1 && most - least <= 1, "{form}: {counts:?}");
        }
    }
}

#[test]
fn things_lie_within_the_picture_and_apart_or_inside() {
    for scene in small("a", 400, false) {
        for (i, a) in scene.things.iter().enumerate() {
            let edges = a.edges();
            assert!(edges.iter().all(|edge| (2.0..=94.0).contains(edge)), "{a:?}");
            for (j, b) in scene.things.iter().enumerate().take(i) {
                let [left, top, right, bottom] = b.edges();
                let overlap =
                    edges[0] < right && left < edges[2] && edges[1] < bottom && top < edges[3];
                assert_eq!(overlap, a.inside == Some(j), "{a:?} {b:?}");
            }
        }
    }
}

#[test]
fn boxes_are_where_the_ink_is() {
    for scene in small("a", 60, false) {
        let [thing] = &scene.things[..] else { continue };
        let picture = draw::picture(&scene);
        let paper = picture.get_pixel(0, 0);
        let inked = picture.enumerate_pixels().filter(|(.., pixel)| *pixel != paper);
        let mut found = [f64::MAX, f64::MAX, 0.0, 0.0];
        for (x, y, _) in inked {
            let (x, y) = (f64::from(x), f64::from(y));
            found =
                [found[0].min(x), found[1].min(y), found[2].max(x + 1.0), found[3].max(y + 1.0)];
        }
        // Thin tips cover no sample of their outermost pixel.
        for (edge, ink) in thing.edges().iter().zip(found) {
            assert!((edge - ink).abs() < 1.7, "{thing:?}: {found:?}");
        }
    }
}

#[test]
fn what_is_kept_back_is_in_one_split_only() {
    assert!(!small("a", 400, false).iter().flat_map(|s| &s.things).any(Thing::is_unseen));
    let scenes = small("b", 400, true);
    assert!(scenes.iter().all(|scene| scene.things.iter().any(Thing::is_unseen)));
    for shape in 0..SHAPES.len() {
        let pairs = (0..COLORS.len()).filter(|color| layout::is_unseen(*color, shape));
        assert_eq!(pairs.count(), 1);
    }
    for (i, row) in rows(&scenes, true) {
        let things = &scenes[i].things;
        let named = |thing: &&Thing| {
            row.question.contains(SHAPES[thing.shape])
                || row.question.contains(COLORS[thing.color].0)
        };
        assert!(
            row.kind == "exist" || things.iter().filter(named).any(Thing::is_unseen),
            "{row:?}"
        );
    }
}

#[test]
fn what_is_named_is_the_only_one_of_its_name() {
    for scene in small("a", 400, false) {
        for thing in &scene.things {
            let Some(name) = words::name(&scene, thing) else { continue };
            let all = scene.things.iter();
            let fits = all.filter(|other| words::full(other).ends_with(&name)).count();
            assert_eq!(fits, 1, "{name}: {scene:?}");
        }
    }
}

#[test]
fn relations_keep_their_distance() {
    let scenes = small("a", 400, false);
    for (i, row) in rows(&scenes, false).iter().filter(|(_, row)| row.kind == "relation") {
        let scene = &scenes[*i];
        let (asked, yes) = (&row.question, row.answer.as_deref() == Some("yes"));
        let relation = ["left of", "right of", "above", "below", "inside"]
            .into_iter()
            .find(|relation| asked.contains(relation))
            .unwrap();
        let (first, second) = asked
            .strip_prefix("Is the ")
            .and_then(|rest| rest.strip_suffix('?'))
            .and_then(|rest| rest.split_once(&format!(" {relation} the ")))
            .unwrap();
        let find = |name: &str| {
            let of = |thing: &&Thing| words::name(scene, thing).as_deref() == Some(name);
            scene.things.iter().find(of).unwrap()
        };
        let (a, b) = (find(first).edges(), find(second).edges());
        let (dx, dy) = (a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]);
        let (truth, far) = match relation {
            "left of" => (dx < 0.0, dx.abs()),
            "right of" => (dx > 0.0, dx.abs()),
            "above" => (dy < 0.0, dy.abs()),
            "below" => (dy > 0.0, dy.abs()),
            _ => (a[0] > b[0] && a[1] > b[1] && a[2] < b[2] && a[3] < b[3], 24.0),
        };
        assert!(truth == yes && far >= 24.0, "{asked} {yes}: {scene:?}");
    }
}

#[test]
fn captions_list_what_is_there() {
    let thing = |color, shape, large, x, inside| Thing {
        color,
        shape,
        large,
        x,
        y: 50.0,
        r: if large { 15.0 } else { 7.0 },
        ink: [0; 3],
        inside,
    };
    let scene = |things: Vec<Thing>| Scene { paper: [255; 3], things };
    let two = scene(vec![thing(1, 0, false, 80.0, None), thing(0, 5, true, 30.0, None)]);
    assert_eq!(
        words::captions(&two),
        [
            "a large red cross and a small orange circle",
            "a large red cross left of a small orange circle"
        ]
    );
    let alike = scene(vec![thing(4, 5, false, 10.0, None), thing(4, 5, false, 40.0, None)]);
    assert_eq!(words::captions(&alike), ["two small blue crosses"]);
    let nested = scene(vec![thing(4, 1, true, 30.0, None), thing(0, 4, false, 32.0, Some(0))]);
    assert_eq!(words::captions(&nested)[1], "a small red star inside a large blue square");
}

#[test]
fn a_set_of_another_version_is_made_anew_and_opens() {
    let cache = tempfile::tempdir().unwrap();
    let old = cache.path().join("scenes");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("version.txt"), "scenes 0\n").unwrap();
    assert!(!is_made(&old));
    let split = |name, unseen| Split { name, pictures: 60, unseen, taught: !unseen };
    let made = make(cache.path(), &[split("val", false), split("test-unseen", true)]).unwrap();
    assert!(is_made(&made));
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 1, "something is left over");
    let open = |split: &str| {
        crate::Conversations::open(&format!("{}:{split}", made.display()), "").unwrap().samples
    };
    let test = open("test-unseen");
    assert!(test.iter().any(|sample| !sample.boxes.is_empty() && sample.answer().is_empty()));
    assert_eq!(open("captions-val").len(), 60);
    let of = |split: &str, kind: &str| -> Vec<_> {
        open(split).into_iter().filter(|s| s.kind.as_deref() == Some(kind)).collect()
    };
    let boxes = |split: &str| of(split, "list").into_iter().map(|s| s.boxes).collect::<Vec<_>>();
    assert_eq!(boxes("val"), boxes("told-val"));
    let (lists, captions) = (of("told-val", "list"), of("told-val", "caption"));
    assert_eq!(lists.len(), 60, "a picture has no list of its things");
    let questions: HashMap<String, usize> = captions.iter().fold(HashMap::new(), |mut all, c| {
        *all.entry(c.turns[0].text.clone()).or_default() += 1;
        all
    });
    assert!(questions.len() == 2 && questions["Describe the picture."] == 60, "{questions:?}");
    let places = |split: &str| of(split, "place").len();
    assert!(2 * places("asked-val") > 3 * places("val"), "how things lie is not asked for more");
    assert_eq!(of("asked-val", "list").len(), 0);
    for list in lists {
        let left: Vec<f64> = list.boxes.iter().map(|region| region.corners[0]).collect();
        assert!(left.is_sorted(), "{left:?}");
    }
}
