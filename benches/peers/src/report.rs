//! The table and the picture.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::drive::Results;
use crate::jobs::{CONTESTANTS, JOBS, Unit};

/// When, on what, and with which versions.
pub fn machine(python: Option<&Path>) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = read("/proc/loadavg");
    let mut parts = vec![
        says("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        format!(
            "{} cores of {}",
            std::thread::available_parallelism().map_or(0, usize::from),
            model.map_or("an unknown processor", |(_, model)| model)
        ),
        format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        format!("load {} before", load.split(' ').next().unwrap_or_default()),
        says("rustc", &["--version"]),
    ];
    if let Some(python) = python {
        parts.push(says(python.to_str().unwrap_or_default(), &["--version"]));
    }
    parts.join("; ")
}

fn says(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().into(),
        Err(error) => format!("{program}: {error}"),
    }
}

pub fn table(results: &Results, machine: &str, settings: &str, failures: &[String]) -> String {
    let mut text = format!("{machine}. {settings}.\n\n");
    text += "Medians of the rounds (least to most); behind them, how many times better \
        procession is, as the median of the rounds' ratios.\n";
    for job in JOBS {
        let Some(of_job) = results.get(job.name) else { continue };
        write!(text, "\n### {}\n\n|", job.title).unwrap();
        let rows: Vec<_> =
            CONTESTANTS.into_iter().filter(|who| of_job.contains_key(*who)).collect();
        if rows.len() == 1 {
            // One contestant: as a list.
            text += " |";
            write!(text, " {} |\n|---|---|\n", rows[0]).unwrap();
            for (name, heading, unit) in job.figures {
                if let Some(values) = of_job[rows[0]].get(*name) {
                    writeln!(text, "| {heading} | {} |", spread(values, *unit)).unwrap();
                }
            }
            continue;
        }
        for (_, heading, _) in job.figures {
            write!(text, " | {heading}").unwrap();
        }
        write!(text, " |\n|---{}|\n", "|---".repeat(job.figures.len())).unwrap();
        for who in rows {
            write!(text, "| {who}").unwrap();
            for (name, _, unit) in job.figures {
                let Some(values) = of_job[who].get(*name) else {
                    text += " | –";
                    continue;
                };
                write!(text, " | {}", spread(values, *unit)).unwrap();
                let ours = of_job.get("procession").and_then(|ours| ours.get(*name));
                if let Some(ours) = ours.filter(|_| who != "procession")
                    && let Some(ratio) = ratio(ours, values, *unit)
                {
                    write!(text, " **{}×**", rounded(ratio)).unwrap();
                }
            }
            text += " |\n";
        }
    }
    for failure in failures {
        write!(text, "\nFAILED: {failure}").unwrap();
    }
    text
}

/// How many times better ours is. None where there is nothing to divide.
fn ratio(ours: &[f64], theirs: &[f64], unit: Unit) -> Option<f64> {
    let better = |(ours, theirs): (&f64, &f64)| {
        if unit.more_is_better() { ours / theirs } else { theirs / ours }
    };
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(better).collect();
    Some(median(&ratios)).filter(|ratio| ratio.is_finite() && *ratio > 0.0)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn spread(values: &[f64], unit: Unit) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let middle = median(values);
    let [middle, least, most] = [middle, least, most].map(|value| written(value, unit));
    format!("{middle} ({least} to {most})")
}

fn written(value: f64, unit: Unit) -> String {
    let steps: &[(f64, &str)] = match unit {
        Unit::Share => return format!("{:.0} %", value * 100.0),
        Unit::Count => return rounded(value),
        Unit::Seconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
        Unit::PerSecond => &[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")],
        Unit::Bytes => &[(1_048_576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")],
    };
    let fits = steps.iter().find(|(size, _)| value >= *size);
    let (size, name) = fits.unwrap_or(steps.last().expect("three"));
    format!("{} {name}", rounded(value / size))
}

/// Three digits or so.
fn rounded(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        ..0.1 => format!("{value:.4}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

const ROW: f64 = 18.0;
const NAMES: f64 = 170.0;
const BARS: f64 = 480.0;
const FIGURES: f64 = 190.0;

/// Bars on a logarithmic axis, one group for each figure of each job. An axis
/// has whole decades, one more below the smallest value.
pub fn plot(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for job in JOBS {
        let Some(of_job) = results.get(job.name) else { continue };
        for (name, heading, unit) in job.figures {
            let bars: Vec<(&str, f64)> = CONTESTANTS
                .into_iter()
                .filter_map(|who| Some((who, median(of_job.get(who)?.get(*name)?))))
                .filter(|(_, value)| *value > 0.0)
                .collect();
            let values = bars.iter().map(|(_, value)| value.log10());
            let low = values.clone().fold(f64::INFINITY, f64::min).floor() - 1.0;
            let high = values.fold(f64::NEG_INFINITY, f64::max).ceil();
            if bars.is_empty() {
                continue;
            }
            y += 2.0 * ROW;
            let better = if unit.more_is_better() { "longer" } else { "shorter" };
            writeln!(
                body,
                r#"<text x="4" y="{y}" font-weight="bold">{}: {heading} ({better} is better)</text>"#,
                job.title
            )
            .unwrap();
            let top = y + 4.0;
            for (who, value) in bars {
                y += ROW;
                let width = (value.log10() - low) / (high - low) * BARS;
                let colour = if who == "procession" { "#c2410c" } else { "#94a3b8" };
                writeln!(
                    body,
                    r#"<text x="{}" y="{y}" text-anchor="end">{who}</text><rect x="{NAMES}" y="{}" width="{width:.1}" height="13" fill="{colour}"/><text x="{:.1}" y="{y}">{}</text>"#,
                    NAMES - 6.0,
                    y - 11.0,
                    NAMES + width + 5.0,
                    written(value, *unit)
                )
                .unwrap();
            }
            for decade in 0..=(high - low) as i32 {
                let x = NAMES + f64::from(decade) / (high - low) * BARS;
                writeln!(
                    body,
                    r##"<line x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{}" stroke="black" stroke-opacity="0.2"/>"##,
                    y + 4.0
                )
                .unwrap();
            }
        }
    }
    let (width, height) = (NAMES + BARS + FIGURES, y + ROW);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
        font-family=\"sans-serif\" font-size=\"12\">\n\
        <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}
