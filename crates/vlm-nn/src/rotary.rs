//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), half-split, and the ways to
//! stretch it over longer texts than a model was trained on.

use std::f64::consts::TAU;

use burn::tensor::{Device, Tensor, TensorData};

use crate::ops;

/// Turns the pairs `(i, i + d/2)` of each head by an angle that grows with the position, the
/// layout of Hugging Face's Llama, Qwen and Gemma files (Meta's own pairs neighbours).
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Base of the wavelengths.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// The `rope_scaling` of a `config.json`, under transformers' names.
///
/// `context` is always the number of tokens that the model was trained on before stretching.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    Default,
    /// Every position divided by `factor`.
    Linear {
        /// How much longer.
        factor: f64,
    },
    /// A larger base for texts longer than `context` (dynamic NTK).
    Dynamic {
        /// How much longer.
        factor: f64,
        /// Tokens.
        context: usize,
    },
    /// Long waves divided, short ones left, those between blended (Peng et al. 2023,
    /// arXiv 2309.00071).
    Yarn {
        /// How much longer.
        factor: f64,
        /// Tokens.
        context: usize,
        /// Turns within the context above which a wave is left alone; 32 as a rule.
        fast: f64,
        /// Turns below which it is divided; 1 as a rule.
        slow: f64,
        /// Multiplies cosine and sine.
        magnitude: f64,
        /// Whether the borders are rounded to whole pairs.
        truncate: bool,
    },
    /// Long waves divided, short ones left, those between blended by wavelength (Llama 3.1).
    Llama3 {
        /// How much longer.
        factor: f64,
        /// Waves longer than `context / low` are divided.
        low: f64,
        /// Waves shorter than `context / high` are left.
        high: f64,
        /// Tokens.
        context: usize,
    },
    /// Each wave divided by a number of its own (Ding et al. 2024, arXiv 2402.13753).
    LongRope {
        /// Divisors for texts up to `context`, one a pair.
        short: Vec<f64>,
        /// Divisors for longer texts.
        long: Vec<f64>,
        /// Tokens.
        context: usize,
        /// Multiplies cosine and sine.
        magnitude: f64,
    },
}

/// Cosine and sine of the angles of some positions, `[batch or 1, tokens, head_dim / 2]` each.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Rotary {
    /// Not stretched.
    pub fn new(theta: f64) -> Self {
        Rotary { theta, scaling: RopeScaling::Default }
    }

    /// The angle a position, in radians, of each pair of a head, and what cosine and sine are
    /// multiplied by, for a text of `tokens` tokens.
    ///
    /// In f32 where the reference is: at position 8000 the rounding of an angle is no trifle.
    pub fn frequencies(&self, head_dim: usize, tokens: usize) -> (Vec<f32>, f32) {
        let pairs = head_dim / 2;
        let waves = |theta: f64| -> Vec<f32> {
            (0..pairs)
                .map(|i| theta.powf(f64::from((2 * i) as f32 / head_dim as f32)) as f32)
                .collect()
        };
        let plain = || -> Vec<f32> { waves(self.theta).iter().map(|wave| 1.0 / wave).collect() };
        match &self.scaling {
            RopeScaling::Default => (plain(), 1.0),
            RopeScaling::Linear { factor } => {
                (plain().iter().map(|f| f / *factor as f32).collect(), 1.0)
            }
            RopeScaling::Dynamic { factor, context } => {
                let (d, stretch) = (head_dim as f64, tokens.max(*context) as f64 / *context as f64);
                let theta = self.theta * (factor * stretch - (factor - 1.0)).powf(d / (d - 2.0));
                (waves(theta).iter().map(|wave| 1.0 / wave).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, context, fast, slow, magnitude, truncate } => {
                // The pair whose wave turns so often within the context.
                let pair = |turns: f64| {
                    head_dim as f64 * (*context as f64 / (turns * TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (pair(*fast), pair(*slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let blend = |(i, wave): (usize, &f32)| {
                    let divided = (((i as f64 - low) / (high - low)) as f32).clamp(0.0, 1.0);
                    1.0 / (*factor as f32 * wave) * divided + 1.0 / wave * (1.0 - divided)
                };
                (waves(self.theta).iter().enumerate().map(blend).collect(), *magnitude as f32)
            }
            RopeScaling::Llama3 { factor, low, high, context } => {
                let (factor, context) = (*factor as f32, *context as f32);
                let (low, high) = (*low as f32, *high as f32);
                let stretch = |f: &f32| {
                    let wave = TAU as f32 / f;
                    if wave < context / high {
                        *f
                    } else if wave > context / low {
                        f / factor
                    } else {
                        let left = (context / wave - low) / (high - low);
                        (1.0 - left) * f / factor + left * f
                    }
                };
                (plain().iter().map(stretch).collect(), 1.0)
            }
            RopeScaling::LongRope { short, long, context, magnitude } => {
                let divisors = if tokens > *context { long } else { short };
                let divide = |(wave, by): (&f32, &f64)| 1.0 / (*by as f32 * wave);
                (waves(self.theta).iter().zip(divisors).map(divide).collect(), *magnitude as f32)
            }
        }
    }

    /// The angles of `tokens` positions from `start` on.
    pub fn angles(&self, head_dim: usize, start: usize, tokens: usize, device: &Device) -> Angles {
        self.angles_at(head_dim, &[(start..start + tokens).collect()], device)
    }

    /// The angles of tokens at these positions, those of each row or of one row for all.
    ///
    /// Each row is a text of its own, as long as its last position asks for.
    ///
    /// # Panics
    /// If the rows differ in length.
    pub fn angles_at(&self, head_dim: usize, rows: &[Vec<usize>], device: &Device) -> Angles {
        let (tokens, half) = (rows.first().map_or(0, Vec::len), head_dim / 2);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for row in rows {
            let length = row.iter().max().map_or(0, |last| last + 1);
            let (frequencies, magnitude) = self.frequencies(head_dim, length);
            for position in row {
                for frequency in &frequencies {
                    let angle = f64::from(*position as f32 * frequency);
                    cos.push(angle.cos() as f32 * magnitude);
                    sin.push(angle.sin() as f32 * magnitude);
                }
            }
        }
        let table = |values: Vec<f32>| {
            Tensor::from_data(TensorData::new(values, [rows.len(), tokens, half]), device)
        };
        Angles { cos: table(cos), sin: table(sin) }
    }
}

impl Angles {
    /// Turns `x: [batch, tokens, heads · head_dim]`.
    pub fn turn(&self, x: Tensor<3>, heads: usize) -> Tensor<3> {
        ops::rotate(x, self.cos.clone(), self.sin.clone(), heads)
    }
}
