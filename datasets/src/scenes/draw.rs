//! From a scene to pixels.

use image::{Rgb, RgbImage};

use super::SIDE;
use super::layout::{Scene, Thing};

/// The shapes, each within -1 to 1; y points down.
pub(super) const SHAPES: [&str; 6] = ["circle", "square", "triangle", "diamond", "star", "cross"];

/// Corners of the shapes after the circle. The triangle and the star stand on the middle of their
/// circle, which is not the middle of their box.
const CORNERS: [&[[f64; 2]]; 5] = [
    &[[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    &[[0.0, -1.0], [1.0, 0.75], [-1.0, 0.75]],
    &[[0.0, -1.0], [0.72, 0.0], [0.0, 1.0], [-0.72, 0.0]],
    &[
        [0.0, -1.0],
        [0.25, -0.34],
        [0.95, -0.31],
        [0.4, 0.13],
        [0.59, 0.81],
        [0.0, 0.42],
        [-0.59, 0.81],
        [-0.4, 0.13],
        [-0.95, -0.31],
        [-0.25, -0.34],
    ],
    &[
        [-0.32, -0.95],
        [0.32, -0.95],
        [0.32, -0.32],
        [0.95, -0.32],
        [0.95, 0.32],
        [0.32, 0.32],
        [0.32, 0.95],
        [-0.32, 0.95],
        [-0.32, 0.32],
        [-0.95, 0.32],
        [-0.95, -0.32],
        [-0.32, -0.32],
    ],
];

/// Left, top, right, bottom of a shape of radius 1.
pub(super) fn extent(shape: usize) -> [f64; 4] {
    let Some(corners) = shape.checked_sub(1).map(|i| CORNERS[i]) else {
        return [-1.0, -1.0, 1.0, 1.0];
    };
    corners.iter().fold([1.0, 1.0, -1.0, -1.0], |[l, t, r, b], [x, y]| {
        [f64::min(l, *x), f64::min(t, *y), f64::max(r, *x), f64::max(b, *y)]
    })
}

/// Whether a point lies in a shape of radius 1.
fn holds(shape: usize, x: f64, y: f64) -> bool {
    let Some(corners) = shape.checked_sub(1).map(|i| CORNERS[i]) else {
        return x * x + y * y <= 1.0;
    };
    let mut inside = false;
    let mut last = corners[corners.len() - 1];
    for corner in corners {
        let ([ax, ay], [bx, by]) = (last, *corner);
        if (ay > y) != (by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax {
            inside = !inside;
        }
        last = *corner;
    }
    inside
}

/// Samples along a side of a pixel.
const FINE: u32 = 4;

/// The picture of a scene.
pub(super) fn picture(scene: &Scene) -> RgbImage {
    let mut picture = RgbImage::from_pixel(SIDE, SIDE, Rgb(scene.paper));
    for thing in &scene.things {
        let edge = thing.ink.map(|c| (u32::from(c) * 5 / 8) as u8);
        paint(&mut picture, thing, thing.r, edge);
        paint(&mut picture, thing, thing.r - 1.25, thing.ink);
    }
    picture
}

/// Lays a shape of this radius over the picture, by the share of each pixel that it covers.
fn paint(picture: &mut RgbImage, thing: &Thing, radius: f64, ink: [u8; 3]) {
    let [left, top, right, bottom] = thing.edges().map(|edge| edge.clamp(0.0, f64::from(SIDE)));
    for py in top.floor() as u32..bottom.ceil() as u32 {
        for px in left.floor() as u32..right.ceil() as u32 {
            let mut covered = 0;
            for sample in 0..FINE * FINE {
                let place = |pixel: u32, sub: u32| {
                    f64::from(pixel) + (f64::from(sub) + 0.5) / f64::from(FINE)
                };
                let x = (place(px, sample % FINE) - thing.x) / radius;
                let y = (place(py, sample / FINE) - thing.y) / radius;
                covered += u32::from(holds(thing.shape, x, y));
            }
            let pixel = picture.get_pixel_mut(px, py);
            for (below, above) in pixel.0.iter_mut().zip(ink) {
                let all = FINE * FINE;
                let mixed = u32::from(*below) * (all - covered) + u32::from(above) * covered;
                *below = ((mixed + all / 2) / all) as u8;
            }
        }
    }
}
