//! `stele bucket quota` and `stele account quota`.

use super::client;
use super::keep::{Asked, show};
use crate::admin_client::ClientError;
use crate::admin_quota::{QuotaAnswer, QuotaQuestion};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(super) enum Bucket {
    /// How much a bucket holds, and may hold.
    Quota {
        /// Its name.
        #[arg(value_name = "BUCKET")]
        name: String,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        asked: Asked,
    },
}

/// What is to change; nothing without either.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// From now on at most so many bytes, open uploads included; K, M, G, T and P count by 1024. `none` lifts the limit.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    bytes: Option<u64>,
    /// From now on at most so many versions. `none` lifts the limit.
    #[arg(long, value_name = "N", value_parser = count)]
    objects: Option<u64>,
}

fn count(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    match text.parse() {
        Ok(0) => Err("a quota of 0 would let nothing in; `none` lifts it".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("{text} is not a number")),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50)];
    let unit = units.iter().find_map(|(letter, shift)| Some((text.strip_suffix(*letter)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let number = count(number)?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than can be counted"))
}

/// Runs `stele bucket`.
pub(super) async fn bucket(command: Bucket) -> Result<u8, ClientError> {
    let Bucket::Quota { name, limits, asked } = command;
    quota(QuotaQuestion { bucket: Some(name), ..QuotaQuestion::default() }, limits, &asked).await
}

/// Runs `stele account quota`.
pub(super) async fn account(id: String, limits: Limits, asked: &Asked) -> Result<u8, ClientError> {
    quota(QuotaQuestion { account: Some(id), ..QuotaQuestion::default() }, limits, asked).await
}

async fn quota(of: QuotaQuestion, limits: Limits, asked: &Asked) -> Result<u8, ClientError> {
    let question = QuotaQuestion { max_bytes: limits.bytes, max_objects: limits.objects, ..of };
    let answer: QuotaAnswer = client(&asked.server)?.send("/v1/quota", &question).await?;
    show(&answer, asked.json, print);
    Ok(0)
}

fn print(answer: &QuotaAnswer) {
    let of = |limit: u64| if limit == 0 { "no limit".to_owned() } else { format!("of {limit}") };
    println!("{} versions ({})", answer.objects, of(answer.max_objects));
    println!("{} bytes ({})", answer.bytes + answer.upload_bytes, of(answer.max_bytes));
    if answer.upload_bytes > 0 {
        println!("{} of them in open uploads", answer.upload_bytes);
    }
    if !answer.counted {
        println!("not all of it is counted yet: there is more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_nonsense_is_not() {
        assert_eq!(size("10"), Ok(10));
        assert_eq!(size("2K"), Ok(2048));
        assert_eq!(size("3T"), Ok(3 << 40));
        assert_eq!((size("none"), count("none")), (Ok(0), Ok(0)));
        for bad in ["0", "", "K", "-1", "1.5G", "20000000P", "10GB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
