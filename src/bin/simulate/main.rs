//! `simulate`: runs the store, the delivery service and the mesh on simulated disks and time, with
//! crashes and faults drawn from a seed, and compares their behaviour with a plain model.
//!
//! The program compiles the server's sources a second time, with planted bugs enabled (`plant`):
//! the library and the released binary do not have them. A seed runs on one thread; seeds run in
//! parallel, one on each processor.

#[path = "../../directory/mod.rs"]
#[allow(dead_code, unused_imports)]
mod directory;
#[path = "../../dkim/mod.rs"]
#[allow(dead_code, unused_imports)]
mod dkim;
#[path = "../../events/mod.rs"]
#[allow(dead_code, unused_imports)]
mod events;
#[path = "../../metrics/mod.rs"]
#[allow(dead_code, unused_imports)]
mod metrics;
#[path = "../../model/mod.rs"]
#[allow(dead_code, unused_imports)]
mod model;
#[path = "../../plant.rs"]
mod plant;
#[path = "../../protocol/mod.rs"]
#[allow(dead_code, unused_imports)]
mod protocol;
#[path = "../../queue/mod.rs"]
#[allow(dead_code, unused_imports)]
mod queue;
#[path = "../../resolver/mod.rs"]
#[allow(dead_code, unused_imports)]
mod resolver;
#[path = "../../runtime/mod.rs"]
#[allow(dead_code, unused_imports)]
mod runtime;
#[path = "../../service/mod.rs"]
#[allow(dead_code, unused_imports)]
mod service;
#[path = "../../store/mod.rs"]
#[allow(dead_code, unused_imports)]
mod store;

mod check;
mod expectation;
mod outside;
mod plants;
mod post;
mod run;
mod sender;
mod session;
mod world;

use std::{
    cell::Cell,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use plant::Plant;
use plants::PLANTS;
use run::{Complaint, Tally};

/// Planted bugs exist in this program.
const PLANTS_LIVE: bool = true;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lines of history printed for a failing seed.
const HISTORY_SHOWN: usize = 60;

/// Seeds on which a plant is tried.
const PLANT_SEEDS: u64 = 6000;

/// Run the store on simulated disks, with crashes and faults, against a model.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  simulate --seeds 1000             a thousand seeds from 0 on, on all processors
  simulate --seed 4711              one seed again, e.g. one that failed
  simulate --seeds 500 --start 9000 seeds 9000 to 9499
  simulate --plant list             the planted bugs by name
  simulate --plant all              plant each in turn; fails if one is not caught
  simulate --plant skip-sync --seed 3 --verbose

The last line is `N passed, N failed`. Exit code 0: all passed; 1: a seed failed or a plant was
not caught; 2: wrong usage.")]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// First seed [default: 0; with `--plant all` one that is known to catch the plant, if any]
    #[arg(long, conflicts_with = "seed")]
    start: Option<u64>,
    /// Run only this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Plant a bug: a name, `all` or `list`
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// Commands of each session in each life of the server [default: drawn from the seed]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Print the history of the seed given by --seed even if it passes
    #[arg(long)]
    verbose: bool,
}

thread_local! {
    /// The seed that this thread runs, for the panic message.
    static RUNNING: Cell<Option<u64>> = const { Cell::new(None) };
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    name_seed_on_panic();
    match arguments.plant.as_deref() {
        None => run_seeds(&arguments, None),
        Some("list") => {
            for (name, _, what) in PLANTS {
                println!("{name:<22} {what}");
            }
            ExitCode::SUCCESS
        }
        Some("all") => run_plants(&arguments),
        Some(name) => match plants::by_name(name) {
            Some(plant) => run_seeds(&arguments, Some(plant)),
            None => {
                eprintln!("simulate: no plant is called {name}; see `simulate --plant list`");
                ExitCode::from(2)
            }
        },
    }
}

/// A panic ends the process: report at least the seed.
fn name_seed_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(seed) = RUNNING.get() {
            eprintln!("seed {seed} panicked; alone: {}", reproduction(seed, None));
        }
        before(info);
    }));
}

fn reproduction(seed: u64, plant: Option<&str>) -> String {
    let plant = plant.map_or(String::new(), |name| format!(" --plant {name}"));
    format!("cargo run --release --features simulator --bin simulate -- --seed {seed}{plant}")
}

fn run_one(seed: u64, plant: Option<Plant>, steps: Option<usize>) -> Result<Tally, Complaint> {
    RUNNING.set(Some(seed));
    plant::plant(plant);
    let outcome = run::run(seed, steps);
    plant::plant(None);
    RUNNING.set(None);
    outcome
}

/// The results of a series of seeds.
#[derive(Default)]
struct Summary {
    passed: u64,
    /// The lowest failing seed.
    failed: Vec<(u64, Complaint)>,
    tally: Tally,
}

/// Runs seeds on all processors until all are done or, if `first` is set, one has failed.
fn run_row(
    seeds: std::ops::Range<u64>,
    plant: Option<Plant>,
    steps: Option<usize>,
    first: bool,
    bar: &ProgressBar,
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = run_one(seed, plant, steps);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    match outcome {
                        Ok(tally) => {
                            summary.passed += 1;
                            summary.tally.crashes += tally.crashes;
                            summary.tally.recoveries += tally.recoveries;
                            summary.tally.damages += tally.damages;
                        }
                        Err(complaint) => {
                            if !first {
                                bar.suspend(|| {
                                    eprintln!("seed {seed} failed: {}", complaint.text);
                                    eprintln!("  alone: {}", reproduction(seed, None));
                                });
                            }
                            summary.failed.push((seed, complaint));
                            stop.fetch_or(first, Ordering::Relaxed);
                        }
                    }
                    bar.inc(1);
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failed.sort_by_key(|(seed, _)| *seed);
    summary
}

fn progress(seeds: u64) -> ProgressBar {
    let bar = ProgressBar::new(seeds);
    let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} to go";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn run_seeds(arguments: &Arguments, plant: Option<Plant>) -> ExitCode {
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => {
            let start = arguments.start.unwrap_or(0);
            start..start + arguments.seeds
        }
    };
    let bar = match seeds.end - seeds.start {
        0..=1 => ProgressBar::hidden(),
        count => progress(count),
    };
    let summary = run_row(seeds, plant, arguments.steps, false, &bar);
    bar.finish_and_clear();
    if let Some((seed, complaint)) = summary.failed.first() {
        let history = &complaint.history;
        let shown = if arguments.verbose { history.len() } else { HISTORY_SHOWN };
        println!("seed {seed}, its last commands:");
        for line in &history[history.len().saturating_sub(shown)..] {
            println!("  {line}");
        }
        println!("seed {seed}: {}", complaint.text);
        println!("alone: {}", reproduction(*seed, arguments.plant.as_deref()));
    }
    let Tally { crashes, recoveries, damages } = summary.tally;
    println!(
        "{crashes} power losses, {recoveries} recoveries checked; started from {damages} broken disks"
    );
    println!("{} passed, {} failed", summary.passed, summary.failed.len());
    match summary.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Tries every plant on seed after seed until one fails.
fn run_plants(arguments: &Arguments) -> ExitCode {
    let mut missed = 0;
    println!("{:<22} {:>6}  complaint", "plant", "seeds");
    for (name, plant, what) in PLANTS {
        let bar = progress(PLANT_SEEDS);
        bar.set_message(*name);
        let start = arguments.start.unwrap_or_else(|| plants::first_seed(name));
        let row = start..start + PLANT_SEEDS;
        let summary = run_row(row, Some(*plant), arguments.steps, true, &bar);
        bar.finish_and_clear();
        match summary.failed.first() {
            Some((seed, complaint)) => {
                let text: String = complaint.text.chars().take(120).collect();
                println!("{name:<22} {:>6}  {text}", seed - start + 1);
            }
            None => {
                println!("{name:<22} {:>6}  NOT CAUGHT: {what}", "-");
                missed += 1;
            }
        }
    }
    println!("{} passed, {missed} failed", PLANTS.len() - missed);
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
