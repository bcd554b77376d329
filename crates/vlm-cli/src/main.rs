//! The `vlm` program: train, adapt and run vision-language models without Python.

mod adapter;
mod assemble;
mod boxes;
mod chat;
mod compare;
mod config;
mod device;
mod diverged;
mod embed;
mod eval;
mod finetune;
mod folder;
mod generate;
mod import;
mod inspect;
mod labels;
mod merge;
mod methods;
mod output;
mod panics;
mod pen;
mod plan;
mod quantize;
mod replay;
mod report;
mod retrieve;
mod rule;
mod search;
mod train;
mod zero_shot;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use vlm_nn::ops::Precision;

/// Train, adapt and run vision-language models without Python.
///
/// Results go to stdout, everything else to stderr. Exit status: 0 for success, 1 for a
/// failure, 2 for wrong usage, 130 for a training run or an index that Ctrl-C stopped (it can be
/// gone on with).
#[derive(Parser)]
#[command(name = "vlm", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Where to compute; `vlm --help` of a build lists the backends in it.
    #[arg(long, global = true, value_name = "DEVICE", default_value = device::DEFAULT,
          help = device::HELP)]
    device: String,
    /// How exactly matrices are multiplied: highest (f32), high (two bfloat16 numbers for each
    /// f32, nearly as exact) or medium (one). Faster on processors with AMX, medium on those with AVX512-BF16 too.
    /// A training run takes it from its configuration [default: highest].
    #[arg(long, global = true, value_name = "PRECISION")]
    matmul_precision: Option<Precision>,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model as a configuration file says, and report on it.
    Train(train::Args),
    /// Adapt a model with few parameters: LoRA and its kin, (IA)3, bottlenecks, rows in front.
    Finetune(finetune::Args),
    /// List the methods of adapting a model: what each is, and when to use it.
    Methods(methods::Args),
    /// Tell what adapting a model takes in memory, by method, without doing it.
    Plan(plan::Args),
    /// Adapt a model by several methods under one budget, and compare them in a table.
    Compare(compare::Args),
    /// Let a model's weights take up adapters: it costs nothing from then on, and needs none.
    Merge(merge::Args),
    /// Make the weights again that mezo tuned, from the model and the list of its steps.
    ///
    /// A run with mezo is the seed and the slope of the loss at each step: a file of a few kilobytes
    /// (replay.json in the run's folder) stands for the tuned model.
    Replay(replay::Args),
    /// Keep four bits of each weight, as bitsandbytes does.
    Quantize(quantize::Args),
    /// Name what pictures show, choosing among labels the model was never trained on.
    ZeroShot(zero_shot::Args),
    /// Measure a model on a whole data set.
    Eval(Box<eval::Args>),
    /// Print or save the features of pictures or texts.
    Embed(embed::Args),
    /// Find the pictures of a folder that fit a text, once and without an index.
    ///
    /// Looks at every picture each time and writes nothing. For a folder that is searched more
    /// than once, `vlm search` keeps an index.
    Retrieve(retrieve::Args),
    /// Find pictures by text or by picture in an index of a folder, made on first use.
    ///
    /// The first search looks at every picture below a folder, which takes a while, and keeps what
    /// it saw in an index. Later ones look at new and changed pictures only, and answer at once.
    /// `vlm retrieve` keeps nothing and writes nothing: it is for a folder that is asked once.
    Search(search::Args),
    /// Answer a question, about pictures too.
    Generate(generate::Args),
    /// Talk with a model in the terminal, about pictures too.
    Chat(chat::Args),
    /// Join an image encoder and a language model to a new generative model.
    Assemble(assemble::Args),
    /// Turn a GGUF or ONNX file into a model folder.
    Import(import::Args),
    /// Show what is in a model folder, or what a configuration makes the model see.
    Inspect(inspect::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    panics::quiet();
    vlm_train::keep_freed_memory();
    let device = cli.device;
    let result = panics::caught(|| {
        let opened = device::open(&device)?;
        let _precision = cli.matmul_precision.map(Precision::scope);
        match cli.command {
            Command::Train(args) => train::run(args, cli.matmul_precision, &device, &opened),
            Command::Finetune(args) => finetune::run(&args, cli.matmul_precision, &device, &opened),
            Command::Methods(args) => methods::run(&args, &opened).map(done),
            Command::Plan(args) => plan::run(&args, &opened).map(done),
            Command::Compare(args) => compare::run(&args, cli.matmul_precision, &device),
            Command::Merge(args) => merge::run(&args, &opened).map(done),
            Command::Replay(args) => replay::run(&args, &opened).map(done),
            Command::Quantize(args) => quantize::run(&args, &opened).map(done),
            Command::ZeroShot(args) => zero_shot::run(&args, &opened).map(done),
            Command::Eval(args) => eval::run(&args, &opened).map(done),
            Command::Embed(args) => embed::run(&args, &opened).map(done),
            Command::Retrieve(args) => retrieve::run(&args, &opened).map(done),
            Command::Search(args) => search::run(&args, &opened),
            Command::Generate(args) => generate::run(&args, &opened).map(done),
            Command::Chat(args) => chat::run(&args, &opened).map(done),
            Command::Assemble(args) => assemble::run(&args, &opened).map(done),
            Command::Import(args) => import::run(&args).map(done),
            Command::Inspect(args) => inspect::run(&args, &opened).map(done),
        }
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            // One line: the chain of causes, without those that a message repeats.
            let mut line = String::new();
            for cause in error.chain() {
                let cause = cause.to_string();
                if !line.contains(&cause) {
                    if !line.is_empty() {
                        line.push_str(": ");
                    }
                    line.push_str(&cause);
                }
            }
            output::note(&format!("error: {}", one_line(&line)));
            ExitCode::from(if error.is::<output::Usage>() { 2 } else { 1 })
        }
    }
}

/// Prints help where that was asked for, and what is wrong with the arguments as one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // A reader that is gone needs no help.
        let _ = error.print();
    } else {
        let text = error.render().to_string();
        let reason = text.split("\n\nUsage:").next().unwrap_or_default();
        let reason = reason.split("\n\nFor more information").next().unwrap_or_default();
        let reason: Vec<&str> = reason.split_whitespace().collect();
        output::note(&format!("{}; see --help", reason.join(" ")));
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// File names and captions may hold line breaks and worse.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
