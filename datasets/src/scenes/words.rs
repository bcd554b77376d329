//! Names of things, and captions.

use super::ask::{INSIDE, RELATIONS, related};
use super::draw::SHAPES;
use super::layout::{COLORS, Scene, Thing};

/// `red circle`.
pub(super) fn plain(thing: &Thing) -> String {
    format!("{} {}", COLORS[thing.color].0, SHAPES[thing.shape])
}

/// `small red circle`.
pub(super) fn full(thing: &Thing) -> String {
    format!("{} {}", size(thing), plain(thing))
}

/// `small` or `large`.
pub(super) fn size(thing: &Thing) -> &'static str {
    if thing.large { "large" } else { "small" }
}

/// More than one of a shape.
pub(super) fn plural(shape: usize) -> String {
    match SHAPES[shape] {
        "cross" => "crosses".to_owned(),
        shape => format!("{shape}s"),
    }
}

/// A name that only this thing has: its colour and shape, with its size where that is needed.
pub(super) fn name(scene: &Scene, thing: &Thing) -> Option<String> {
    let only = |of: fn(&Thing) -> String| {
        let own = of(thing);
        (scene.things.iter().filter(|other| of(other) == own).count() == 1).then_some(own)
    };
    only(plain).or_else(|| only(full))
}

fn with_article(words: &str) -> String {
    let vowel = words.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {words}", if vowel { "an" } else { "a" })
}

const COUNTS: [&str; 6] = ["no", "one", "two", "three", "four", "five"];

/// What a scene shows: all things from left to right, and how two of them lie.
pub(super) fn captions(scene: &Scene) -> Vec<String> {
    let mut order: Vec<&Thing> = scene.things.iter().collect();
    order.sort_by(|a, b| a.middle()[0].total_cmp(&b.middle()[0]));
    let mut named: Vec<(String, &Thing, usize)> = Vec::new();
    for thing in order {
        let words = full(thing);
        match named.iter_mut().find(|(known, ..)| *known == words) {
            Some((_, _, count)) => *count += 1,
            None => named.push((words, thing, 1)),
        }
    }
    let mut parts: Vec<String> = named
        .iter()
        .map(|(words, thing, count)| match count {
            1 => with_article(words),
            n => {
                let (size, color) = (size(thing), COLORS[thing.color].0);
                format!("{} {size} {color} {}", COUNTS[*n], plural(thing.shape))
            }
        })
        .collect();
    let last = parts.pop().unwrap_or_default();
    let list = if parts.is_empty() { last } else { format!("{} and {last}", parts.join(", ")) };
    let mut captions = vec![list];
    captions.extend(relation(scene));
    captions
}

/// How two things lie that have a name: one inside another, else the leftmost from the rightmost.
fn relation(scene: &Scene) -> Option<String> {
    let mut named: Vec<&Thing> =
        scene.things.iter().filter(|thing| name(scene, thing).is_some()).collect();
    let inner = named.iter().find_map(|thing| {
        let outer = &scene.things[thing.inside?];
        name(scene, outer).map(|_| (*thing, outer, INSIDE))
    });
    let (a, b, relation) = match inner {
        Some(found) => found,
        None => {
            named.sort_by(|a, b| a.middle()[0].total_cmp(&b.middle()[0]));
            let (a, b) = (named.first()?, named.last()?);
            let ([ax, ay], [bx, by]) = (a.middle(), b.middle());
            let relation = match bx - ax >= (by - ay).abs() {
                true => 0,
                false => 2 + usize::from(ay > by),
            };
            (related(scene, a, b, relation)?).then_some((*a, *b, relation))?
        }
    };
    let (a, b) = (with_article(&full(a)), with_article(&full(b)));
    Some(format!("{a} {} {b}", RELATIONS[relation]))
}
