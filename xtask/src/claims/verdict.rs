//! What the numbers say of the claims.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Tried;
use super::subject::Pair;

/// Mean and standard deviation over the seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub mean: f64,
    deviation: f64,
}

impl Spread {
    /// Of what the runs came to.
    pub fn of(all: &[f64]) -> Self {
        let mean = mean(all);
        let square = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        Spread { mean, deviation: (square / (all.len().max(2) - 1) as f64).sqrt() }
    }

    /// Where this stands beside another: twice the standard error of the difference is noise.
    fn beside(self, other: Spread, seeds: usize) -> Apart {
        // What diverged is below all that did not.
        match (self.mean.is_nan(), other.mean.is_nan()) {
            (true, false) => return Apart::Below,
            (false, true) => return Apart::Above,
            _ => {}
        }
        let square = self.deviation.powi(2) + other.deviation.powi(2);
        let noise = 2.0 * (square / seeds as f64).sqrt();
        match self.mean - other.mean {
            d if d > noise => Apart::Above,
            d if d < -noise => Apart::Below,
            _ => Apart::Noise,
        }
    }
}

/// What the runs of a method came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub spread: Spread,
    trained: f64,
    memory: f64,
    /// On what the model knew before.
    before: Spread,
    /// The mean on what learning rates are chosen by.
    pub choice: f64,
    /// By seed.
    pub folders: Vec<PathBuf>,
}

impl Outcome {
    /// That of a row of a `compare.json`, which tells of the test first, then of what the model knew before, and
    /// last of what learning rates are chosen by, if that is something else.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(row: &Value) -> Result<Self> {
        // Of runs that all diverged there is none.
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let also = |name: &str| number(&row[name][0]);
        let spread = Spread { mean: number(&row["mean"]), deviation: number(&row["deviation"]) };
        Ok(Outcome {
            spread,
            trained: number(&row["trained_values"]),
            memory: number(&row["peak_memory_bytes"]),
            before: Spread { mean: also("also"), deviation: also("also_deviation") },
            choice: row["also"].get(1).map_or(spread.mean, number),
            folders: serde_json::from_value(row["folders"].clone())
                .context("a row does not say where its runs are")?,
        })
    }
}

/// All of them, by the methods that they are of.
pub struct Outcomes {
    all: BTreeMap<String, Outcome>,
    seeds: usize,
}

impl Outcomes {
    /// Those of a `compare.json`, whose rows are of these methods.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(rows: &[Value], methods: &[&str], seeds: usize) -> Result<Self> {
        let one = |(name, row): (&&str, &Value)| Ok(((*name).to_owned(), Outcome::read(row)?));
        Ok(Outcomes { all: methods.iter().zip(rows).map(one).collect::<Result<_>>()?, seeds })
    }

    /// The outcome of a method.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, method: &str) -> Result<&Outcome> {
        self.all.get(method).with_context(|| format!("no runs of {method}"))
    }

    /// Where the first stands beside the second.
    fn apart(&self, a: &str, b: &str) -> Result<Apart> {
        Ok(self.get(a)?.spread.beside(self.get(b)?.spread, self.seeds))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    Above,
    Noise,
    Below,
}

/// What a paper says of two methods.
#[derive(Clone, Copy)]
pub enum Says {
    /// The first is better.
    Better,
    /// The first is no worse.
    Close,
}

fn percent(share: f64) -> String {
    match share.is_nan() {
        true => "diverged".to_owned(),
        false => format!("{:.1}", 100.0 * share),
    }
}

/// The claims about methods that were tried as Markdown, first those about pairs.
///
/// # Errors
/// If what a run logged cannot be read.
pub fn claims(pairs: &[Pair], outcomes: &Outcomes, ranks: &[[Spread; 3]]) -> Result<String> {
    let mut text = String::from("| claim | measured, % | holds |\n|---|---|---|\n");
    let mut line = |claim: &str, measured: &str, holds: &str| {
        text += &format!("| {claim} | {measured} | {holds} |\n");
    };
    for (claim, a, b, says) in pairs {
        let (Ok(first), Ok(second)) = (outcomes.get(a), outcomes.get(b)) else { continue };
        let holds = match (says, outcomes.apart(a, b)?) {
            (_, Apart::Above) => "yes",
            (Says::Close, Apart::Noise) => "yes, within noise",
            (Says::Better, Apart::Noise) => "not seen: within noise",
            (_, Apart::Below) => "no",
        };
        let (a, b) = (first.spread.mean, second.spread.mean);
        let measured = format!("{} to {} ({:+.1})", percent(a), percent(b), 100.0 * (a - b));
        line(claim, &measured, holds);
    }
    if let (Ok(lora), Ok(full)) = (outcomes.get("lora"), outcomes.get("full")) {
        line(
            "LoRA trains far fewer values",
            &format!("{:.1} % of them", 100.0 * lora.trained / full.trained),
            if lora.trained < 0.1 * full.trained { "yes" } else { "no" },
        );
        line(
            "LoRA forgets less than all weights do",
            &format!(
                "what was known before: {} to {}",
                percent(lora.before.mean),
                percent(full.before.mean)
            ),
            match lora.before.beside(full.before, outcomes.seeds) {
                Apart::Above => "yes",
                Apart::Noise => "not seen: within noise",
                Apart::Below => "no",
            },
        );
    }
    if let (Ok(fa), Ok(all)) = (outcomes.get("lora-fa"), outcomes.get("lora:targets=all-linear")) {
        line(
            "LoRA-FA takes less memory than LoRA, all maps, and comes up to it",
            &format!(
                "{:.0} to {:.0} MB, {} to {}",
                fa.memory / 1e6,
                all.memory / 1e6,
                percent(fa.spread.mean),
                percent(all.spread.mean)
            ),
            match (fa.memory < all.memory, outcomes.apart("lora-fa", "lora:targets=all-linear")?) {
                (true, Apart::Above | Apart::Noise) => "yes",
                (true, Apart::Below) => "less memory, but not as good",
                _ => "no",
            },
        );
    }
    if let (Ok(plus), Ok(lora)) = (outcomes.get("lora-plus"), outcomes.get("lora")) {
        let (plus, lora) = (losses(plus)?, losses(lora)?);
        let (plus, plain) = (first_below(&plus, &lora), lora.len());
        line(
            "LoRA+ comes to LoRA's last loss in fewer steps",
            &plus.map_or_else(
                || format!("not in {plain} steps"),
                |step| format!("{step} to {plain} steps"),
            ),
            if plus.is_some_and(|step| step < plain) { "yes" } else { "no" },
        );
    }
    if ranks.is_empty() {
        return Ok(text);
    }
    for (of, claim, serves) in
        [(0, "one DyLoRA serves all ranks", true), (2, "a LoRA that is cut does not", false)]
    {
        let gap = ranks.iter().map(|r| r[1].mean - r[of].mean).fold(f64::MIN, f64::max);
        let near = ranks.iter().filter(|r| r[of].beside(r[1], outcomes.seeds) != Apart::Below);
        let near = near.count();
        let measured = format!(
            "at most {:.1} below a LoRA of the rank, within noise of it at {near} of {}",
            100.0 * gap,
            ranks.len()
        );
        line(claim, &measured, if (near == ranks.len()) == serves { "yes" } else { "no" });
    }
    Ok(text)
}

/// The learning rates that were tried, and how much hangs on them.
///
/// # Errors
/// If none was tried.
pub fn rates(found: &[(&str, Tried)]) -> Result<String> {
    let mut text = String::from(
        "| method | chosen learning rate | accuracy with it, % | with all that were tried |\n\
         |---|--:|--:|---|\n",
    );
    for (method, tried) in found {
        let (rate, best) = tried.best()?;
        let all: Vec<String> =
            tried.all().iter().map(|(rate, mean)| format!("{rate}: {}", percent(*mean))).collect();
        text += &format!("| {method} | {rate} | {} | {} |\n", percent(*best), all.join(", "));
    }
    Ok(text)
}

/// Ranks of DyLoRA and LoRA.
pub fn ranks(ranks: &[[Spread; 3]]) -> String {
    let mut text = String::from(
        "| rank | one DyLoRA, cut | a LoRA of the rank | LoRA of rank 8, cut |\n|--:|--:|--:|--:|\n",
    );
    for (number, of_rank) in ranks.iter().enumerate() {
        let [dynamic, own, cut] = of_rank.map(|spread| percent(spread.mean));
        text += &format!("| {} | {dynamic} | {own} | {cut} |\n", number + 1);
    }
    text
}

/// Steps that a loss is the mean of.
const WINDOW: usize = 10;

/// The training losses of the first run of a method.
fn losses(outcome: &Outcome) -> Result<Vec<f64>> {
    let path = outcome.folders.first().context("no runs")?.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let trained = records.filter(|record| record["kind"] == "train");
    Ok(trained.filter_map(|record| record["loss"].as_f64()).collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The first step at which a method's loss is as low as another's at its end.
fn first_below(losses: &[f64], other: &[f64]) -> Option<usize> {
    let goal = mean(&other[other.len().saturating_sub(WINDOW)..]);
    let found = losses.windows(WINDOW).position(|window| mean(window) <= goal);
    found.map(|start| start + WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(rows_of: &[(&str, f64, f64)]) -> Outcomes {
        let rows: Vec<Value> = rows_of
            .iter()
            .map(|(method, mean, deviation)| {
                serde_json::json!({
                    "method": format!("{method}:optim.lr=1"), "mean": mean, "deviation": deviation, "also": [0.5],
                    "trained_values": 10, "peak_memory_bytes": 1e9, "folders": ["a-1", "a-2"],
                })
            })
            .collect();
        let methods: Vec<&str> = rows_of.iter().map(|(method, _, _)| *method).collect();
        Outcomes::read(&rows, &methods, 4).unwrap()
    }

    #[test]
    fn what_is_less_than_twice_the_standard_error_is_noise() {
        let all = outcomes(&[("a", 0.50, 0.02), ("b", 0.52, 0.02), ("c", 0.56, 0.02)]);
        assert_eq!(all.apart("a", "b").unwrap(), Apart::Noise);
        assert_eq!(all.apart("a", "c").unwrap(), Apart::Below);
        assert_eq!(all.apart("c", "a").unwrap(), Apart::Above);
        // Without a third measure, rates are chosen by the test.
        assert!(all.get("b").unwrap().choice == 0.52 && all.get("b").unwrap().before.mean == 0.5);
        assert!(all.apart("a", "d").unwrap_err().to_string().contains("no runs of d"));
    }

    #[test]
    fn runs_have_a_spread() {
        let spread = Spread::of(&[0.5, 0.7]);
        assert!(
            (spread.mean - 0.6).abs() < 1e-12 && (spread.deviation - 0.02f64.sqrt()).abs() < 1e-12
        );
    }

    #[test]
    fn a_loss_is_reached_where_a_mean_of_it_is() {
        let falling: Vec<f64> = (0..40).map(|step| f64::from(40 - step)).collect();
        let slower: Vec<f64> = (0..40).map(|step| f64::from(40 - step / 2)).collect();
        // The last ten of the slower are 21 to 25, 23 in the mean; so are those of the other from 27.5 on.
        assert_eq!(first_below(&falling, &slower), Some(23));
        assert_eq!(first_below(&slower, &falling), None);
    }

    #[test]
    fn ranks_have_a_line_each() {
        let spread = |mean| Spread { mean, deviation: 0.01 };
        let text = ranks(&[[0.1, 0.2, 0.05].map(spread), [0.2, 0.25, 0.1].map(spread)]);
        assert!(
            text.ends_with("| 1 | 10.0 | 20.0 | 5.0 |\n| 2 | 20.0 | 25.0 | 10.0 |\n"),
            "{text}"
        );
    }
}
