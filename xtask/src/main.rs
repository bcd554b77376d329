//! The workspace's own commands: `cargo xtask train`, `test`, `check` and so on.
//!
//! Everything that has to be typed more than once stands here as a program, so that it works
//! the same for everyone; `cargo xtask help` lists it.
#![warn(missing_docs)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod backend;
mod bench;
mod build;
mod check;
mod claims;
mod compared;
mod data;
mod fusions;
mod golden;
mod mezo;
mod python;
mod runs;
mod seeds;
mod setup;
mod shell;
mod test;
mod tidy;
mod train;

#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    about = "The workspace's own commands",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Test(test::Args),
    Check(check::Args),
    Bench(bench::Args),
    Golden(golden::Args),
    Data(data::Args),
    Setup(setup::Args),
    Seeds(seeds::Args),
    Fusions(fusions::Args),
    Claims(claims::Args),
    Mezo(mezo::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => train::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Golden(args) => golden::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Seeds(args) => seeds::run(&args),
        Command::Fusions(args) => fusions::run(&args),
        Command::Claims(args) => claims::run(&args),
        Command::Mezo(args) => mezo::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // What a program that was run says with its exit code is handed on.
            let code = error.downcast_ref::<shell::Failed>().map_or(1, |failed| failed.code);
            ExitCode::from(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_explains_itself() {
        let mut cli = Cli::command();
        cli.build(); // checks the definitions too
        for command in cli.get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} says nothing about itself");
            for argument in command.get_arguments().filter(|a| a.get_id() != "help") {
                assert!(
                    argument.get_help().is_some(),
                    "{name}: {} is not explained",
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn arguments_for_other_programs_are_left_to_them() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        let Ok(Command::Train(args)) = parse("x train --backend tch --out runs/a -h --backend b")
        else {
            panic!("not understood")
        };
        assert_eq!(args.backend, backend::Backend::Tch);
        assert_eq!(args.arguments, ["--out", "runs/a", "-h", "--backend", "b"]);
        let Ok(Command::Test(args)) = parse("x test -- -p vlm-nn --lib") else {
            panic!("not understood")
        };
        assert_eq!(args.arguments, ["-p", "vlm-nn", "--lib"]);
    }
}
