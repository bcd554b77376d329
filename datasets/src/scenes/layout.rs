//! What is in a scene, and where.

use super::SIDE;
use super::draw::{SHAPES, extent};
use super::random::Dice;

/// The colours.
pub(super) const COLORS: [(&str, [u8; 3]); 8] = [
    ("red", [214, 44, 44]),
    ("orange", [242, 138, 28]),
    ("yellow", [246, 212, 48]),
    ("green", [46, 158, 74]),
    ("blue", [44, 98, 212]),
    ("purple", [128, 62, 168]),
    ("pink", [244, 148, 192]),
    ("black", [42, 42, 48]),
];

/// Pairs of colour and shape that only the split of unseen things has: each shape once.
const UNSEEN: [(usize, usize); 6] = [(2, 0), (5, 1), (4, 2), (1, 3), (0, 4), (3, 5)];

const PAPERS: [[u8; 3]; 6] = [
    [246, 245, 242],
    [226, 232, 238],
    [239, 229, 216],
    [216, 228, 216],
    [206, 209, 216],
    [232, 224, 236],
];

/// The shapes that others may be inside of: circle and square.
pub(super) const HOLLOW: usize = 2;
/// Between things, and to the picture's edge.
const GAP: f64 = 3.0;

/// A thing in a scene.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Thing {
    pub color: usize,
    pub shape: usize,
    pub large: bool,
    /// The middle of its circle, and that circle's radius, in pixels.
    pub x: f64,
    pub y: f64,
    pub r: f64,
    /// Its colour as it is drawn.
    pub ink: [u8; 3],
    /// The number of the thing that it is inside of.
    pub inside: Option<usize>,
}

impl Thing {
    /// Left, top, right, bottom in pixels.
    pub(super) fn edges(&self) -> [f64; 4] {
        let [left, top, right, bottom] = extent(self.shape);
        let (x, y, r) = (self.x, self.y, self.r);
        [x + left * r, y + top * r, x + right * r, y + bottom * r]
    }

    /// The middle of its box.
    pub(super) fn middle(&self) -> [f64; 2] {
        let [left, top, right, bottom] = self.edges();
        [(left + right) / 2.0, (top + bottom) / 2.0]
    }

    /// Whether it is of a pair that only the split of unseen things has.
    pub(super) fn is_unseen(&self) -> bool {
        is_unseen(self.color, self.shape)
    }
}

/// Whether only the split of unseen things has this pair.
pub(super) fn is_unseen(color: usize, shape: usize) -> bool {
    UNSEEN.contains(&(color, shape))
}

/// A picture's content, in the order in which it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scene {
    pub paper: [u8; 3],
    pub things: Vec<Thing>,
}

/// Draws a scene; of those with unseen pairs, one that has such a thing.
pub(super) fn scene(dice: &mut Dice, unseen: bool) -> Scene {
    let count = 1 + dice.below(5);
    loop {
        // What does not fit is drawn again, with as many things, so that each count is as likely.
        let kinds = kinds(dice, count, unseen);
        let nested = count >= 2 && dice.chance(70);
        if let Some(things) = place(dice, &kinds, nested) {
            let paper = PAPERS[dice.below(PAPERS.len())];
            return Scene { paper, things };
        }
    }
}

/// Colours and shapes; often several things share one of them, so that there is something to count.
fn kinds(dice: &mut Dice, count: usize, unseen: bool) -> Vec<(usize, usize)> {
    let shared = (dice.below(COLORS.len()), dice.below(SHAPES.len()));
    let theme = dice.below(5);
    let alike = 1 + dice.below(count);
    let mut kinds: Vec<(usize, usize)> = Vec::new();
    while kinds.len() < count {
        let mut kind = (dice.below(COLORS.len()), dice.below(SHAPES.len()));
        if kinds.len() < alike {
            match theme {
                0 | 1 => kind.1 = shared.1,
                2 | 3 => kind.0 = shared.0,
                _ => {}
            }
        }
        if is_unseen(kind.0, kind.1) && !unseen {
            continue;
        }
        // A second thing of a kind is rare: it can be named by its size only.
        if kinds.contains(&kind) && !dice.chance(15) {
            continue;
        }
        kinds.push(kind);
    }
    if unseen && !kinds.iter().any(|(color, shape)| is_unseen(*color, *shape)) {
        kinds[0] = UNSEEN[dice.below(UNSEEN.len())];
    }
    dice.shuffle(&mut kinds);
    kinds
}

/// Sizes and places; none if they do not fit.
fn place(dice: &mut Dice, kinds: &[(usize, usize)], nested: bool) -> Option<Vec<Thing>> {
    let mut things: Vec<Thing> = Vec::new();
    for (i, (color, shape)) in kinds.iter().copied().enumerate() {
        let around = nested && i == 0;
        let within = nested && i == 1;
        if around && shape >= HOLLOW || within && kinds[0].0 == color {
            return None;
        }
        let large = around || !within && dice.chance(50);
        let r = match large {
            true if around => dice.quarter(17.0, 21.0),
            true => dice.quarter(12.5, 16.0),
            false => dice.quarter(6.5, 8.5),
        };
        let ink = COLORS[color].1.map(|c| (usize::from(c) + dice.below(21)).saturating_sub(10));
        let ink = ink.map(|c| c.min(255) as u8);
        let inside = within.then_some(0);
        let mut thing = Thing { color, shape, large, x: 0.0, y: 0.0, r, ink, inside };
        let mut tries = 0..60;
        loop {
            tries.next()?;
            if within {
                let room = things[0].r - r;
                thing.x = things[0].x + dice.quarter(-room, room);
                thing.y = things[0].y + dice.quarter(-room, room);
                if is_within(&thing, &things[0]) {
                    break;
                }
            } else {
                let far = f64::from(SIDE) - r - GAP;
                thing.x = dice.quarter(r + GAP, far);
                thing.y = dice.quarter(r + GAP, far);
                if things.iter().all(|other| apart(&thing, other)) {
                    break;
                }
            }
        }
        things.push(thing);
    }
    Some(things)
}

fn apart(a: &Thing, b: &Thing) -> bool {
    let ([al, at, ar, ab], [bl, bt, br, bb]) = (a.edges(), b.edges());
    ar + GAP <= bl || br + GAP <= al || ab + GAP <= bt || bb + GAP <= at
}

/// Whether the whole box of one lies in the other, at a distance from its edge.
fn is_within(inner: &Thing, outer: &Thing) -> bool {
    let [left, top, right, bottom] = inner.edges();
    let reach = outer.r - GAP;
    let (dx, dy) =
        (f64::max(outer.x - left, right - outer.x), f64::max(outer.y - top, bottom - outer.y));
    match outer.shape {
        0 => dx * dx + dy * dy <= reach * reach,
        _ => dx.max(dy) <= 0.9 * outer.r - GAP,
    }
}
