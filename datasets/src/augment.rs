//! Augmentation: random changes that leave a picture's meaning alone.

use image::{Rgb, RgbImage, RgbaImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::geometry::{self, Affine};

/// What is changed, and how much. Everything is off by default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Largest rotation either way, in degrees.
    pub rotate: f32,
    /// Smallest and largest factor on the size.
    pub scale: [f32; 2],
    /// Largest factor between width and height, as a share: 0.2 is up to 1.2 : 1.
    pub stretch: f32,
    /// Largest shift either way, as a share of the side.
    pub shift: f32,
    /// Probability of a left-right flip.
    pub flip: f32,
    /// Probability that a transparent picture is laid on a random colour instead of white.
    pub background: f32,
    /// Probability of the colour changes that follow.
    pub colour: f32,
    /// Largest relative change of brightness.
    pub brightness: f32,
    /// Largest relative change of contrast.
    pub contrast: f32,
    /// Largest relative change of saturation.
    pub saturation: f32,
    /// Largest turn of the hue, as a share of the circle.
    pub hue: f32,
    /// Probability of grey.
    pub grey: f32,
    /// Probability of fewer colour levels, which looks flat.
    pub posterise: f32,
    /// Probability of a 3x3 blur.
    pub blur: f32,
    /// Probability that a rectangle is filled with a random colour.
    pub erase: f32,
    /// Largest share of the area that is erased.
    pub erase_area: f32,
    /// Probability of a blend with another picture of the same group.
    pub blend: f32,
}

impl Default for Augment {
    fn default() -> Self {
        Augment {
            rotate: 0.0,
            scale: [1.0, 1.0],
            stretch: 0.0,
            shift: 0.0,
            flip: 0.0,
            background: 0.0,
            colour: 0.0,
            brightness: 0.0,
            contrast: 0.0,
            saturation: 0.0,
            hue: 0.0,
            grey: 0.0,
            posterise: 0.0,
            blur: 0.0,
            erase: 0.0,
            erase_area: 0.2,
            blend: 0.0,
        }
    }
}

impl Augment {
    /// Looks for values that make no sense, to be called before any picture is read.
    ///
    /// # Errors
    /// The first such value, with what is allowed.
    pub fn check(&self) -> Result<(), String> {
        for (name, value, largest) in [
            ("rotate", self.rotate, 180.0),
            ("stretch", self.stretch, 10.0),
            ("shift", self.shift, 1.0),
            ("flip", self.flip, 1.0),
            ("background", self.background, 1.0),
            ("colour", self.colour, 1.0),
            ("brightness", self.brightness, 1.0),
            ("contrast", self.contrast, 1.0),
            ("saturation", self.saturation, 1.0),
            ("hue", self.hue, 1.0),
            ("grey", self.grey, 1.0),
            ("posterise", self.posterise, 1.0),
            ("blur", self.blur, 1.0),
            ("erase", self.erase, 1.0),
            ("erase_area", self.erase_area, 1.0),
            ("blend", self.blend, 1.0),
        ] {
            if !(0.0..=largest).contains(&value) {
                return Err(format!("{name} is {value}; it must be from 0 to {largest}"));
            }
        }
        let [small, large] = self.scale;
        if !(small >= 0.01 && small <= large && large <= 100.0) {
            return Err(format!(
                "scale is [{small}, {large}]; give the smaller first, from 0.01 to 100"
            ));
        }
        Ok(())
    }
}

/// Lays a picture on a colour.
pub fn flatten(picture: &RgbaImage, colour: [u8; 3]) -> RgbImage {
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let p = picture.get_pixel(x, y).0;
        let a = u32::from(p[3]);
        Rgb(std::array::from_fn(|c| {
            ((u32::from(p[c]) * a + u32::from(colour[c]) * (255 - a) + 127) / 255) as u8
        }))
    })
}

/// Mixes two pictures of one size: `share` of `b`, the rest of `a`. Other sizes leave `a`.
pub fn blend(a: &RgbaImage, b: &RgbaImage, share: f32) -> RgbaImage {
    if a.dimensions() != b.dimensions() {
        return a.clone();
    }
    let mut mixed = a.clone();
    for (m, b) in mixed.pixels_mut().zip(b.pixels()) {
        let (oa, ob) = (f32::from(m[3]) * (1.0 - share), f32::from(b[3]) * share);
        let opacity = oa + ob;
        if opacity > 0.0 {
            for c in 0..3 {
                m[c] = ((f32::from(m[c]) * oa + f32::from(b[c]) * ob) / opacity).round() as u8;
            }
        }
        m[3] = opacity.round() as u8;
    }
    mixed
}

/// A changed copy, always the same for the same seed. `other` is a picture of the same group
/// to blend with.
pub fn augment(
    picture: &RgbaImage,
    other: Option<&RgbaImage>,
    config: &Augment,
    seed: u64,
) -> RgbImage {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut chance = |p: f32| p > 0.0 && rng.random::<f32>() < p;
    let [blends, flip, grounded, coloured, grey, posterised, blurred, erased] = [
        config.blend,
        config.flip,
        config.background,
        config.colour,
        config.grey,
        config.posterise,
        config.blur,
        config.erase,
    ]
    .map(&mut chance);
    let mut within = |largest: f32| (rng.random::<f32>() * 2.0 - 1.0) * largest;

    let mut rgba = picture.clone();
    if let (true, Some(other)) = (blends, other) {
        rgba = blend(&rgba, other, 0.5 + within(0.5));
    }
    let [small, large] = config.scale;
    let map = Affine {
        rotate: within(config.rotate),
        scale: (small + large) / 2.0 + within((large - small) / 2.0),
        stretch: (1.0 + config.stretch).powf(within(1.0)),
        shift: [within(config.shift), within(config.shift)],
        flip,
    };
    if map != (Affine { rotate: 0.0, scale: 1.0, stretch: 1.0, shift: [0.0; 2], flip: false }) {
        rgba = geometry::apply(&rgba, map);
    }
    let mut colour = || -> [u8; 3] { std::array::from_fn(|_| (128.0 + within(127.0)) as u8) };
    let ground = if grounded { colour() } else { [255; 3] };
    let patch = colour();
    let mut rgb = flatten(&rgba, ground);
    if coloured {
        let change = Colour {
            brightness: 1.0 + within(config.brightness),
            contrast: 1.0 + within(config.contrast),
            saturation: 1.0 + within(config.saturation),
            hue: within(config.hue),
        };
        change.apply(&mut rgb);
    }
    if grey {
        Colour { brightness: 1.0, contrast: 1.0, saturation: 0.0, hue: 0.0 }.apply(&mut rgb);
    }
    if posterised {
        for value in rgb.iter_mut() {
            // Three bits, each level in the middle of its range, white and black kept.
            *value = ((u16::from(*value) * 7 + 127) / 255 * 255 / 7) as u8;
        }
    }
    if blurred {
        rgb = image::imageops::filter3x3(
            &rgb,
            &[1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0].map(|w| w / 16.0),
        );
    }
    if erased {
        let area = (0.5 + within(0.5)) * config.erase_area;
        let side = |aspect: f32, whole: u32| ((area * aspect).sqrt() * whole as f32) as u32;
        let aspect = 2f32.powf(within(1.0));
        let (w, h) = (side(aspect, rgb.width()), side(1.0 / aspect, rgb.height()));
        let x = ((0.5 + within(0.5)) * rgb.width().saturating_sub(w) as f32) as u32;
        let y = ((0.5 + within(0.5)) * rgb.height().saturating_sub(h) as f32) as u32;
        for dy in 0..h.min(rgb.height() - y) {
            for dx in 0..w.min(rgb.width() - x) {
                rgb.put_pixel(x + dx, y + dy, Rgb(patch));
            }
        }
    }
    rgb
}

/// Changes of colour, as torchvision's ColorJitter defines them.
struct Colour {
    brightness: f32,
    contrast: f32,
    saturation: f32,
    hue: f32,
}

fn grey_of(p: [f32; 3]) -> f32 {
    0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]
}

impl Colour {
    fn apply(&self, picture: &mut RgbImage) {
        let count = (picture.width() * picture.height()).max(1) as f32;
        let mean = picture.pixels().map(|p| grey_of(p.0.map(f32::from))).sum::<f32>() / count
            * self.brightness;
        // The hue turns about the grey axis (Rodrigues' formula with axis (1, 1, 1)/√3).
        let (sin, cos) = (self.hue * std::f32::consts::TAU).sin_cos();
        let (third, root) = ((1.0 - cos) / 3.0, sin / 3f32.sqrt());
        for pixel in picture.pixels_mut() {
            let mut p = pixel.0.map(|v| f32::from(v) * self.brightness);
            p = p.map(|v| mean + (v - mean) * self.contrast);
            let grey = grey_of(p);
            p = p.map(|v| grey + (v - grey) * self.saturation);
            let sum = (p[0] + p[1] + p[2]) * third;
            p = std::array::from_fn(|c| {
                p[c] * cos + sum + root * (p[(c + 2) % 3] - p[(c + 1) % 3])
            });
            pixel.0 = p.map(|v| v.round().clamp(0.0, 255.0) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgba;

    fn picture() -> RgbaImage {
        RgbaImage::from_fn(64, 64, |x, y| {
            let opaque = (16..48).contains(&x) && (16..48).contains(&y);
            Rgba([200, 40, 90, if opaque { 255 } else { 0 }])
        })
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let good = Augment { flip: 0.5, scale: [0.8, 1.2], ..Augment::default() };
        assert_eq!(good.check(), Ok(()));
        for (bad, words) in [
            (Augment { flip: 1.5, ..good.clone() }, "flip is 1.5"),
            (Augment { rotate: f32::NAN, ..good.clone() }, "rotate is NaN"),
            (Augment { erase_area: -0.1, ..good.clone() }, "erase_area"),
            (Augment { scale: [1.2, 0.8], ..good.clone() }, "scale is [1.2, 0.8]"),
            (Augment { scale: [0.0, 1.0], ..good.clone() }, "from 0.01"),
            (Augment { scale: [1.0, f32::NAN], ..good.clone() }, "scale"),
        ] {
            let message = bad.check().unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn nothing_is_changed_by_default() {
        assert_eq!(
            augment(&picture(), None, &Augment::default(), 3),
            flatten(&picture(), [255; 3])
        );
    }

    #[test]
    fn every_change_changes_and_is_repeatable() {
        let plain = flatten(&picture(), [255; 3]);
        let off = Augment::default();
        let other = RgbaImage::from_pixel(64, 64, Rgba([0, 0, 250, 255]));
        for config in [
            Augment { rotate: 30.0, ..off.clone() },
            Augment { scale: [0.5, 0.8], ..off.clone() },
            Augment { stretch: 0.5, ..off.clone() },
            Augment { shift: 0.2, ..off.clone() },
            Augment { background: 1.0, ..off.clone() },
            Augment { colour: 1.0, brightness: 0.5, ..off.clone() },
            Augment { colour: 1.0, contrast: 0.5, ..off.clone() },
            Augment { colour: 1.0, saturation: 0.5, ..off.clone() },
            Augment { colour: 1.0, hue: 0.3, ..off.clone() },
            Augment { grey: 1.0, ..off.clone() },
            Augment { posterise: 1.0, ..off.clone() },
            Augment { blur: 1.0, ..off.clone() },
            Augment { erase: 1.0, ..off.clone() },
            Augment { blend: 1.0, ..off.clone() },
        ] {
            let once = augment(&picture(), Some(&other), &config, 5);
            assert_ne!(once, plain, "{config:?}");
            assert_eq!(once, augment(&picture(), Some(&other), &config, 5));
            assert_ne!(once.dimensions().0, 0);
        }
    }

    #[test]
    fn colours_change_as_defined() {
        let mut p = RgbImage::from_pixel(1, 1, Rgb([200, 40, 90]));
        Colour { brightness: 1.0, contrast: 1.0, saturation: 0.0, hue: 0.0 }.apply(&mut p);
        // 0.299·200 + 0.587·40 + 0.114·90 = 93.54
        assert_eq!(p.get_pixel(0, 0), &Rgb([94, 94, 94]));
        let mut p = RgbImage::from_pixel(1, 1, Rgb([200, 40, 90]));
        Colour { brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 1.0 / 3.0 }.apply(&mut p);
        // A third of the circle takes red to green, green to blue, blue to red.
        assert_eq!(p.get_pixel(0, 0), &Rgb([90, 200, 40]));
    }

    #[test]
    fn tiny_pictures_are_no_problem() {
        let p = RgbaImage::from_pixel(1, 1, Rgba([1, 2, 3, 255]));
        let all =
            Augment { rotate: 9.0, erase: 1.0, erase_area: 1.0, blur: 1.0, ..Augment::default() };
        for seed in 0..50 {
            assert_eq!(augment(&p, None, &all, seed).dimensions(), (1, 1));
        }
    }
}
