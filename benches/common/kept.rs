//! Where the figures of a run are kept.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes figures and table to `benches/runs/<date>-<kind>/`, and returns the directory's name.
///
/// # Errors
/// `date` cannot be run, or the directory cannot be written to.
pub fn keep(
    kind: &str,
    csv: (&str, &str),
    table: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    let date = Command::new("date")
        .args(["-u", "+%Y-%m-%d-%H%M"])
        .output()?;
    let name = format!("{}-{kind}", String::from_utf8(date.stdout)?.trim());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../benches/runs")
        .join(&name);
    fs::create_dir_all(&directory)?;
    let (file, figures) = csv;
    fs::write(directory.join(file), figures)?;
    let load_average = fs::read_to_string("/proc/loadavg")?;
    fs::write(
        directory.join("table.md"),
        format!("{table}\nload average at the end: {load_average}"),
    )?;
    Ok(name)
}
