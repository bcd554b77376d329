//! `cargo xtask claims`.

mod subject;
mod verdict;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::compared::{Comparison, Runner, Vlm};
use crate::shell;
use subject::{On, RANKS, Subject};
use verdict::{Outcome, Outcomes, Spread};

/// Adapt a model by every method and hold the claims of their papers against it
///
/// Searches a learning rate for each method with one seed, and with three where two rates come out alike, trains with
/// several, and prints the methods, the ranks and the claims. Runs go to runs/claims; those that are finished are not
/// made again.
#[derive(clap::Args)]
pub struct Args {
    /// What is adapted
    #[arg(long, value_enum, default_value = "clip")]
    on: On,
    /// Runs of each method
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seeds: u32,
    /// Only these of the table's methods, and what is claimed of them; `full*` are all that begin so
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    methods: Vec<String>,
    /// Steps of each run, in place of its own number
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Where the runs go
    #[arg(long, value_name = "DIR", default_value = "runs/claims")]
    out: PathBuf,
    #[command(flatten)]
    runner: Runner,
}

/// Adapts, measures and prints.
///
/// # Errors
/// If the main job has not been run, or the build or a run fails.
pub fn run(args: &Args) -> Result<()> {
    let subject = args.on.subject();
    if !shell::root().join(subject.model).is_dir() {
        bail!("{}: not there; run `{}` first", subject.model, subject.made_by);
    }
    let out = shell::root().join(&args.out).join(subject.name);
    let (searched, further) = args.chosen(subject)?;
    let claiming = Claiming { args, subject, vlm: args.runner.vlm()?, out: &out };
    let found = claiming.search(&searched)?;
    let mut all: Vec<(&str, String)> = found
        .iter()
        .map(|(method, tried)| Ok((*method, tried.best()?.0.clone())))
        .collect::<Result<_>>()?;
    for (method, of) in &further {
        let rate = all.iter().find(|(name, _)| name == of).map(|(_, rate)| rate.clone());
        all.push((method, rate.with_context(|| format!("no rate for {method}"))?));
    }
    let outcomes = claiming.compared(&all, args.seeds)?;
    let ranks = claiming.ranks(&outcomes)?;

    println!("{}", std::fs::read_to_string(out.join("compare.md"))?);
    println!("{}\n", subject.columns());
    println!("{}", verdict::rates(&found)?);
    if !ranks.is_empty() {
        println!("{}", verdict::ranks(&ranks));
    }
    print!("{}", verdict::claims(&subject.pairs(), &outcomes, &ranks)?);
    Ok(())
}

/// What the search goes on by, and how often at most.
const STEP: f64 = 3.0;
const WIDER: usize = 3;
/// Rates are alike whose first runs differ by no more than what 400 answers are unsure by; each then has so many.
const ALIKE: f64 = 0.02;
const WHERE_ALIKE: u32 = 3;

/// Learning rates from low to high, and what a method comes to with each.
pub struct Tried(Vec<(String, f64)>);

impl Tried {
    /// The place of the best.
    fn best_at(&self) -> Result<usize> {
        let all = self.0.iter().enumerate();
        // What diverged is no number.
        let number = |mean: f64| if mean.is_nan() { f64::NEG_INFINITY } else { mean };
        let best = all.max_by(|(_, (_, a)), (_, (_, b))| number(*a).total_cmp(&number(*b)));
        best.map(|(place, _)| place).context("no rate was tried")
    }

    pub fn best(&self) -> Result<&(String, f64)> {
        Ok(&self.0[self.best_at()?])
    }

    /// Those that come as close to the best as chance does, if it is not the only one.
    fn alike(&self) -> Result<Vec<String>> {
        let best = self.best()?.1;
        let close = self.0.iter().filter(|(_, mean)| *mean >= best - ALIKE);
        let close: Vec<String> = close.map(|(rate, _)| rate.clone()).collect();
        Ok(if close.len() > 1 { close } else { Vec::new() })
    }

    /// All, as they are written in a table.
    pub fn all(&self) -> &[(String, f64)] {
        &self.0
    }
}

/// A number as it is written on a command line, always the same way.
fn rate(lr: f64) -> String {
    format!("{:.2e}", lr)
}

/// The measure of that name, over all kinds of samples.
fn found(said: &Value, name: &str) -> Option<f64> {
    let all = said.get("metrics").or_else(|| said["rows"][0].get("measures"))?;
    all.get(name)?.as_f64()
}

/// Methods whose learning rate is searched for with where to begin, and those that take the rate of one.
type Chosen = (Vec<(&'static str, f64)>, Vec<(String, &'static str)>);

impl Args {
    /// What of a subject's methods is wanted.
    fn chosen(&self, subject: &Subject) -> Result<Chosen> {
        let (mut searched, mut further) = (subject.searched(), subject.further());
        let means = |name: &str, entry: &str| match name.strip_suffix('*') {
            Some(start) => entry.starts_with(start),
            None => entry == name,
        };
        for name in &self.methods {
            let known = searched.iter().any(|(entry, _)| means(name, entry))
                || further.iter().any(|(entry, _)| means(name, entry));
            if !known {
                bail!("--methods {name}: nothing is claimed of it here");
            }
        }
        if !self.methods.is_empty() {
            let wanted = |entry: &str| self.methods.iter().any(|name| means(name, entry));
            further.retain(|(entry, _)| wanted(entry));
            searched
                .retain(|(entry, _)| wanted(entry) || further.iter().any(|(_, of)| of == entry));
        }
        Ok((searched, further))
    }
}

/// All that the claims about a subject are measured with.
struct Claiming<'a> {
    args: &'a Args,
    subject: &'a Subject,
    vlm: Vlm,
    /// Where all runs are, so that pictures are looked at once.
    out: &'a Path,
}

impl Claiming<'_> {
    /// What each method comes to at each learning rate, with more seeds where one does not tell.
    fn search(&self, methods: &[(&'static str, f64)]) -> Result<Vec<(&'static str, Tried)>> {
        let mut found = self.widened(methods)?;
        let mut sure = Vec::new();
        loop {
            let mut alike = Vec::new();
            for (method, tried) in &found {
                alike.extend(tried.alike()?.into_iter().map(|rate| (*method, rate)));
            }
            alike.retain(|entry| !sure.contains(entry));
            if alike.is_empty() {
                return Ok(found);
            }
            for (entry, mean) in alike.iter().zip(self.choices(&alike, WHERE_ALIKE)?) {
                let all = found.iter_mut().filter(|(method, _)| *method == entry.0);
                let tried = all.flat_map(|(_, tried)| &mut tried.0);
                tried.filter(|(rate, _)| *rate == entry.1).for_each(|(_, was)| *was = mean);
            }
            // What was best may not be any more, and something else come close to what is.
            sure.extend(alike);
        }
    }

    /// What each method comes to at each learning rate with one seed. Where the best is the highest or the
    /// lowest that was tried, the next one is tried, too.
    fn widened(&self, methods: &[(&'static str, f64)]) -> Result<Vec<(&'static str, Tried)>> {
        let rates = |lr: f64| self.subject.factors.iter().map(|factor| lr * factor).collect();
        let mut all: Vec<(&str, Vec<f64>)> =
            methods.iter().map(|(method, lr)| (*method, rates(*lr))).collect();
        let mut rounds = 0..WIDER;
        loop {
            let entries: Vec<(&str, String)> = all
                .iter()
                .flat_map(|(method, rates)| rates.iter().map(|lr| (*method, rate(*lr))))
                .collect();
            let mut means = self.choices(&entries, 1)?.into_iter();
            let found = all.iter().map(|(method, rates)| {
                (*method, Tried(rates.iter().map(|lr| rate(*lr)).zip(&mut means).collect()))
            });
            let found: Vec<(&str, Tried)> = found.collect();
            let mut wider = false;
            for ((_, rates), (_, tried)) in all.iter_mut().zip(&found) {
                let next = match tried.best_at()? {
                    0 => rates[0] / STEP,
                    last if last + 1 == rates.len() => rates[last] * STEP,
                    _ => continue,
                };
                wider = true;
                rates.push(next);
                rates.sort_by(f64::total_cmp);
            }
            if !wider || rounds.next().is_none() {
                return Ok(found);
            }
        }
    }

    /// Methods at learning rates on what these are chosen by, the mean over the seeds of each.
    fn choices(&self, all: &[(&str, String)], seeds: u32) -> Result<Vec<f64>> {
        if all.is_empty() {
            return Ok(Vec::new());
        }
        self.rows(all, seeds)?.iter().map(|row| Ok(Outcome::read(row)?.choice)).collect()
    }

    /// Runs `vlm compare` with methods at learning rates and reads its table.
    fn compared(&self, all: &[(&str, String)], seeds: u32) -> Result<Outcomes> {
        let methods: Vec<&str> = all.iter().map(|(method, _)| *method).collect();
        Outcomes::read(&self.rows(all, seeds)?, &methods, seeds as usize)
            .with_context(|| self.out.display().to_string())
    }

    fn rows(&self, all: &[(&str, String)], seeds: u32) -> Result<Vec<Value>> {
        let (subject, out) = (self.subject, self.out);
        let (tests, limits) = subject.measured();
        let entries: Vec<String> =
            all.iter().map(|(method, rate)| format!("{method}:optim.lr={rate}")).collect();
        let comparison = Comparison {
            model: subject.model,
            data: subject.train,
            tests: &tests,
            limits: &limits,
            batch: subject.batch,
            steps: self.args.steps.unwrap_or(subject.steps),
            seeds,
            settings: subject.settings,
            entries: &entries,
            out,
        };
        serde_json::from_value(comparison.run(&self.vlm)?).context("compare.json: is no list")
    }

    /// For each rank: DyLoRA cut to it, LoRA of it, and LoRA of the highest cut to it; none if these were not
    /// made.
    fn ranks(&self, outcomes: &Outcomes) -> Result<Vec<[Spread; 3]>> {
        if outcomes.get("dylora").and(outcomes.get("lora:r=1")).is_err() {
            return Ok(Vec::new());
        }
        let cut = ["dylora", "lora"].map(|method| (1..=RANKS).map(move |rank| (method, rank)));
        let cut: Vec<(&str, usize)> = cut.into_iter().flatten().collect();
        let one = |&(method, rank): &(&str, usize)| self.cut(outcomes.get(method)?, rank);
        let found = at_once(&cut, self.vlm.jobs, &one)?;
        (1..=RANKS)
            .map(|rank| {
                let own = if rank == RANKS { "lora".to_owned() } else { format!("lora:r={rank}") };
                Ok([found[rank - 1], outcomes.get(&own)?.spread, found[RANKS + rank - 1]])
            })
            .collect()
    }

    /// What a method comes to whose adapters are cut to a rank.
    fn cut(&self, outcome: &Outcome, rank: usize) -> Result<Spread> {
        let subject = self.subject;
        let mut all = Vec::new();
        for folder in &outcome.folders {
            let adapter = folder.join("adapter");
            let mut eval = self.vlm.call("eval");
            eval.args(["--json", "--task", subject.task, "--model", subject.model]);
            eval.args(["--data", subject.tests[0], "--adapter-ranks", &rank.to_string()]);
            if let Some(limit) = subject.limits.first() {
                eval.args(["--limit", &limit.to_string()]);
            }
            eval.arg("--adapter").arg(&adapter);
            let said = shell::output(&mut eval)
                .with_context(|| format!("{}: cannot be measured", adapter.display()))?;
            let said: Value = serde_json::from_str(&said)?;
            let found = found(&said, subject.measure);
            all.push(found.with_context(|| format!("no {} was measured", subject.measure))?);
        }
        Ok(Spread::of(&all))
    }
}

/// What comes of each, so many computed at once.
fn at_once<T: Sync, R: Send>(
    all: &[T],
    jobs: usize,
    one: &(dyn Fn(&T) -> Result<R> + Sync),
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let taken = std::iter::from_fn(|| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            Some((number, one(all.get(number)?)))
        });
        taken.collect::<Vec<_>>()
    };
    let mut found: Vec<(usize, Result<R>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    found.sort_by_key(|(number, _)| *number);
    found.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn methods_are_chosen_with_those_whose_rates_they_take() {
        let chosen = |methods: &str| {
            let words = ["claims", "--on", "vlm", "--methods", methods];
            let args = <Cli as clap::Parser>::parse_from(words).args;
            let (searched, further) = args.chosen(args.on.subject())?;
            let searched: Vec<&str> = searched.into_iter().map(|(entry, _)| entry).collect();
            anyhow::Ok((searched, further.len()))
        };
        assert_eq!(chosen("qlora*").unwrap(), (vec!["lora:targets=all-linear"], 2));
        assert_eq!(chosen("lora,series*").unwrap(), (vec!["lora", "series:size=16"], 1));
        // MemVP is held against a LoRA that sees as many pictures.
        let (searched, further) = chosen("memvp*,lora:batch*").unwrap();
        assert!(further == 2 && searched[0] == "lora" && searched[1].starts_with("memvp:"));
        let (searched, further) = chosen("eas*,full*").unwrap();
        assert!(further == 3 && searched.len() == 5, "{searched:?}");
        assert!(chosen("mezzo").unwrap_err().to_string().contains("--methods mezzo"));
    }

    #[test]
    fn rates_are_alike_that_come_close_to_the_best() {
        let alike = |means: [f64; 4]| {
            let all = ["a", "b", "c", "d"].map(str::to_owned).into_iter().zip(means).collect();
            Tried(all).alike().unwrap()
        };
        assert_eq!(alike([0.70, 0.79, 0.80, f64::NAN]), ["b", "c"]);
        assert_eq!(alike([0.80, 0.77, 0.70, 0.785]), ["a", "d"]);
        assert!(alike([0.70, 0.77, 0.80, f64::NAN]).is_empty());
    }

    #[test]
    fn what_is_done_at_once_comes_in_order() {
        let all: Vec<u64> = (0..20).collect();
        let slow_first = |n: &u64| {
            std::thread::sleep(std::time::Duration::from_millis(20 - n));
            Ok(n * n)
        };
        assert_eq!(
            at_once(&all, 3, &slow_first).unwrap(),
            all.iter().map(|n| n * n).collect::<Vec<_>>()
        );
        let odd = |n: &u64| if *n == 7 { bail!("seven") } else { Ok(*n) };
        assert_eq!(at_once(&all, 3, &odd).unwrap_err().to_string(), "seven");
    }
}
