//! Writes numbered, checkable blocks to a device and says which were acknowledged.
//!
//! `writer DEVICE SEED FIRST COUNT SPAN MODE OUTPUT LABEL`: block `n` of FIRST..FIRST+COUNT goes to
//! slot `n % SPAN` of 4096 bytes. MODE is `direct` (O_DIRECT), `sync` (O_DIRECT|O_SYNC) or
//! `flush:N` (O_DIRECT, an fdatasync after each N blocks). Prints to OUTPUT, each line opened by
//! LABEL: `ack N` when a write was acknowledged, `sync N` when all up to N are covered by a sync,
//! `error N TEXT` when one failed, `done N` at the end.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;

const BLOCK: usize = 4096;
const O_DIRECT: i32 = 0o40000;
const O_SYNC: i32 = 0o4010000;

/// Fills a block so that its owner, its number and each of its bytes can be checked.
fn fill(block: &mut [u8], seed: u64, number: u64) {
    block[..8].copy_from_slice(&seed.to_le_bytes());
    block[8..16].copy_from_slice(&number.to_le_bytes());
    let mut state = seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for word in block[16..].chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let [device, seed, first, count, span, mode, output, label] = arguments else {
        return Err("usage: writer DEVICE SEED FIRST COUNT SPAN MODE OUTPUT LABEL".to_owned());
    };
    let number = |text: &String| {
        text.parse::<u64>()
            .map_err(|error| format!("{text}: {error}"))
    };
    let (seed, first, count, span) = (number(seed)?, number(first)?, number(count)?, number(span)?);
    let flags = if mode == "sync" {
        O_DIRECT | O_SYNC
    } else {
        O_DIRECT
    };
    let every = match mode.strip_prefix("flush:") {
        Some(text) => text
            .parse::<u64>()
            .map_err(|error| format!("{text}: {error}"))?,
        None => 0,
    };
    let mut output = OpenOptions::new()
        .write(true)
        .open(output)
        .map_err(|error| error.to_string())?;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(device)
        .map_err(|error| error.to_string())?;
    // An aligned block inside a larger allocation: O_DIRECT asks for it.
    let mut space = vec![0_u8; 2 * BLOCK];
    let shift = BLOCK - (space.as_ptr() as usize % BLOCK);
    let mut say = |line: String| {
        output
            .write_all(line.as_bytes())
            .map_err(|error| error.to_string())
    };
    for n in first..first + count {
        let block = &mut space[shift..shift + BLOCK];
        fill(block, seed, n);
        if let Err(error) = file.write_all_at(block, (n % span) * BLOCK as u64) {
            say(format!("\n{label} error {n} {error}\n"))?;
            return Err(error.to_string());
        }
        say(format!("\n{label} ack {n}\n"))?;
        if mode == "sync" {
            say(format!("\n{label} sync {n}\n"))?;
        } else if every > 0 && (n + 1) % every == 0 {
            if let Err(error) = file.sync_data() {
                say(format!("\n{label} error {n} {error}\n"))?;
                return Err(error.to_string());
            }
            say(format!("\n{label} sync {n}\n"))?;
        }
    }
    say(format!("\n{label} done {}\n", first + count))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("writer: {text}");
            ExitCode::FAILURE
        }
    }
}
