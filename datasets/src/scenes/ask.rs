//! What can be asked about a scene.

use serde_json::{Map, Value, json};

use super::SIDE;
use super::draw::SHAPES;
use super::layout::{COLORS, HOLLOW, Scene, Thing, is_unseen};
use super::words::{captions, name, plain, plural, size};

/// The relations that are asked for.
pub(super) const RELATIONS: [&str; 5] = ["left of", "right of", "above", "below", "inside"];
/// The place of `inside` among them.
pub(super) const INSIDE: usize = 4;
/// What lies nearer than this, in pixels, is neither left nor right of the other.
const MARGIN: f64 = 12.0;
/// Things of one kind that are counted at most.
const MOST: usize = 4;

/// A question with its answer, or with the box that answers it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The row of a table that it belongs to.
    pub kind: &'static str,
    /// Among the questions of one form answers are equally frequent.
    pub form: String,
    pub question: String,
    pub answer: Option<String>,
    /// The boxes that answer it, if no words do, with their labels.
    pub regions: Vec<(String, [f64; 4])>,
    /// Whether it is about a pair of colour and shape that only one split has.
    pub unseen: bool,
}

impl Row {
    /// As a line of a list.
    pub(super) fn json(&self, image: &str) -> Value {
        let mut row = Map::new();
        row.insert("image".into(), image.into());
        row.insert("question".into(), self.question.as_str().into());
        if let Some(answer) = &self.answer {
            row.insert("answer".into(), answer.as_str().into());
        }
        if !self.regions.is_empty() {
            let one =
                |(label, corners): &(String, [f64; 4])| json!({"label": label, "box": corners});
            row.insert("boxes".into(), self.regions.iter().map(one).collect());
        }
        row.insert("kind".into(), self.kind.into());
        Value::Object(row)
    }
}

fn row(kind: &'static str, form: &str, question: String, answer: &str, unseen: bool) -> Row {
    Row {
        kind,
        form: form.into(),
        question,
        answer: Some(answer.into()),
        regions: Vec::new(),
        unseen,
    }
}

/// All that can be asked, a list for each kind.
pub(super) fn all(scene: &Scene) -> Vec<Vec<Row>> {
    let mut kinds =
        vec![colors(scene), shapes(scene), sizes(scene), counts(scene), existence(scene)];
    kinds.extend(lies(scene));
    kinds.push(boxes(scene));
    kinds
}

/// What can be asked about how two things lie, a list for each kind.
pub(super) fn lies(scene: &Scene) -> Vec<Vec<Row>> {
    vec![relations(scene, false), relations(scene, true), places(scene)]
}

fn count(scene: &Scene, is: impl Fn(&Thing) -> bool) -> usize {
    scene.things.iter().filter(|thing| is(thing)).count()
}

fn colors(scene: &Scene) -> Vec<Row> {
    let only = scene.things.iter().filter(|t| count(scene, |o| o.shape == t.shape) == 1);
    only.map(|thing| {
        let question = format!("What color is the {}?", SHAPES[thing.shape]);
        row("color", "color", question, COLORS[thing.color].0, thing.is_unseen())
    })
    .collect()
}

fn shapes(scene: &Scene) -> Vec<Row> {
    let only = scene.things.iter().filter(|t| count(scene, |o| o.color == t.color) == 1);
    only.map(|thing| {
        let question = format!("What shape is the {} thing?", COLORS[thing.color].0);
        row("shape", "shape", question, SHAPES[thing.shape], thing.is_unseen())
    })
    .collect()
}

fn sizes(scene: &Scene) -> Vec<Row> {
    let only = scene.things.iter().filter(|t| count(scene, |o| plain(o) == plain(t)) == 1);
    only.map(|thing| {
        let question = format!("Is the {} small or large?", plain(thing));
        // Things that others are in are large, and of two shapes only.
        let form = format!("size of {}", plural(thing.shape));
        row("size", &form, question, size(thing), thing.is_unseen())
    })
    .collect()
}

fn counts(scene: &Scene) -> Vec<Row> {
    let number = |count: usize| count.to_string();
    let mut rows = vec![row(
        "count",
        "count things",
        "How many things are there?".into(),
        &number(scene.things.len()),
        false,
    )];
    for (color, (name, _)) in COLORS.iter().enumerate() {
        let found = count(scene, |thing| thing.color == color);
        if found <= MOST {
            let question = format!("How many {name} things are there?");
            rows.push(row("count", "count colors", question, &number(found), false));
        }
    }
    for shape in 0..SHAPES.len() {
        let found = count(scene, |thing| thing.shape == shape);
        if found <= MOST {
            let question = format!("How many {} are there?", plural(shape));
            rows.push(row("count", "count shapes", question, &number(found), false));
        }
    }
    rows
}

/// Whether there is a thing of a pair; where not, both its colour and its shape are there.
fn existence(scene: &Scene) -> Vec<Row> {
    let pairs = (0..COLORS.len()).flat_map(|c| (0..SHAPES.len()).map(move |s| (c, s)));
    let has_unseen = scene.things.iter().any(Thing::is_unseen);
    pairs
        // Elsewhere the answer would always be no.
        .filter(|(color, shape)| has_unseen || !is_unseen(*color, *shape))
        .filter_map(|(color, shape)| {
            let there = count(scene, |t| (t.color, t.shape) == (color, shape)) > 0;
            let near =
                count(scene, |t| t.color == color) > 0 && count(scene, |t| t.shape == shape) > 0;
            let question = format!("Is there a {} {}?", COLORS[color].0, SHAPES[shape]);
            let question = question.replace("a orange", "an orange");
            let answer = if there { "yes" } else { "no" };
            near.then(|| row("exist", "exist", question, answer, is_unseen(color, shape)))
        })
        .collect()
}

/// Whether `a` is so related to `b`; nothing where it is too close to call, or makes no sense.
pub(super) fn related(scene: &Scene, a: &Thing, b: &Thing, relation: usize) -> Option<bool> {
    if std::ptr::eq(a, b) {
        return None;
    }
    let is_in = |a: &Thing, b: &Thing| a.inside.is_some_and(|i| std::ptr::eq(&scene.things[i], b));
    if relation == INSIDE {
        // Nobody would look for a large thing in a small one.
        return (!a.large && b.large && b.shape < HOLLOW).then(|| is_in(a, b));
    }
    if is_in(a, b) || is_in(b, a) {
        return None;
    }
    let ([ax, ay], [bx, by]) = (a.middle(), b.middle());
    let (along, across) = if relation < 2 { (ax - bx, ay - by) } else { (ay - by, ax - bx) };
    let far = along.abs() >= MARGIN && 2.0 * along.abs() >= across.abs();
    far.then_some((along < 0.0) == (relation.is_multiple_of(2)))
}

/// Two things with names, in both orders.
fn pairs(scene: &Scene) -> Vec<(&Thing, String, &Thing, String)> {
    let mut pairs = Vec::new();
    for a in &scene.things {
        for b in &scene.things {
            if let (false, Some(first), Some(second)) =
                (std::ptr::eq(a, b), name(scene, a), name(scene, b))
            {
                pairs.push((a, first, b, second));
            }
        }
    }
    pairs
}

/// Whether one is left of, right of, above or below another; or inside of it.
fn relations(scene: &Scene, inside: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (a, first, b, second) in pairs(scene) {
        for (i, relation) in RELATIONS.iter().enumerate().filter(|(i, _)| (*i == INSIDE) == inside)
        {
            if let Some(holds) = related(scene, a, b, i) {
                let question = format!("Is the {first} {relation} the {second}?");
                let answer = if holds { "yes" } else { "no" };
                let unseen = a.is_unseen() || b.is_unseen();
                rows.push(row("relation", relation, question, answer, unseen));
            }
        }
    }
    rows
}

/// Where one is from another, if one direction is clear.
fn places(scene: &Scene) -> Vec<Row> {
    let mut rows = Vec::new();
    for (a, first, b, second) in pairs(scene) {
        let ([ax, ay], [bx, by]) = (a.middle(), b.middle());
        let (dx, dy) = (ax - bx, ay - by);
        let sideways = dx.abs() >= 2.0 * dy.abs();
        if !sideways && dy.abs() < 2.0 * dx.abs() {
            continue;
        }
        let relation = match (sideways, if sideways { dx < 0.0 } else { dy < 0.0 }) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => 3,
        };
        if related(scene, a, b, relation) == Some(true) {
            let question = format!("Where is the {first} relative to the {second}?");
            let answer = ["left", "right", "above", "below"][relation];
            let unseen = a.is_unseen() || b.is_unseen();
            rows.push(row("place", "place", question, answer, unseen));
        }
    }
    rows
}

fn boxes(scene: &Scene) -> Vec<Row> {
    let named = scene.things.iter().filter_map(|thing| Some((thing, name(scene, thing)?)));
    named
        .map(|(thing, name)| Row {
            kind: "box",
            // Each shape as often as the others, and each size.
            form: "box".into(),
            question: format!("Where is the {name}?"),
            answer: None,
            regions: vec![(name, shares(thing))],
            unseen: thing.is_unseen(),
        })
        .collect()
}

/// Everything at once: in words, with boxes, and how two things lie. It teaches where things are in
/// fewer pictures than questions about one of them do.
pub(super) fn wholes(scene: &Scene) -> Vec<Row> {
    let mut things: Vec<&Thing> = scene.things.iter().collect();
    things.sort_by(|a, b| a.edges()[0].total_cmp(&b.edges()[0]));
    let list = Row {
        kind: "list",
        form: "list".into(),
        question: "List all things with their boxes, from left to right.".into(),
        answer: None,
        regions: things.into_iter().map(|thing| (plain(thing), shares(thing))).collect(),
        unseen: false,
    };
    let questions = ["Describe the picture.", "How do two of the things lie?"];
    let told = questions.into_iter().zip(captions(scene));
    told.map(|(question, caption)| row("caption", "caption", question.into(), &caption, false))
        .chain([list])
        .collect()
}

/// Its box as shares of the picture, to four decimals.
fn shares(thing: &Thing) -> [f64; 4] {
    let side = f64::from(SIDE);
    thing.edges().map(|edge| (edge / side * 10_000.0).round() / 10_000.0)
}
