//! Certificates near their end, or that nobody trusts.

use std::time::{Duration, SystemTime};

use crate::doctor::Report;
use crate::doctor::facts::{CertificateState, Facts};

/// One finding for each site.
pub(super) fn certificates(facts: &Facts, report: &mut Report) {
    for certificate in &facts.certificates {
        let about = format!("certificate of {}", certificate.host);
        match &certificate.state {
            Err(why) => report.gap(about, why),
            Ok(CertificateState::Unusable(why)) => report.red(
                about,
                why,
                "put a chain and its key in place; `mana-proxy check` reads them again",
            ),
            Ok(CertificateState::SelfSigned) => report.yellow(
                about,
                "it is self-signed: no browser trusts it, and each start makes another",
                r#"certificate = "acme" in the site, then `mana-proxy reload`"#,
            ),
            Ok(CertificateState::Awaited) => report.yellow(
                about,
                "the CA has not issued one yet",
                "mana-proxy certs list",
            ),
            Ok(CertificateState::Valid {
                is_self_signed,
                is_renewed,
                not_before,
                not_after,
            }) => {
                let mend = if *is_renewed {
                    "mana-proxy certs list says why it was not renewed; then mana-proxy certs renew"
                } else {
                    "replace the files; a changed pair is served within seconds"
                };
                match standing(*not_before, *not_after, facts.now) {
                    Standing::NotYet => report.red(
                        about,
                        format!("it is not valid before {}", mana_certs::text(*not_before)),
                        "timedatectl; if the clock is right, replace the certificate",
                    ),
                    Standing::Over => report.red(
                        about,
                        format!("it ended on {}", mana_certs::text(*not_after)),
                        mend,
                    ),
                    Standing::Ending => report.red(about, ends(*not_after, facts.now), mend),
                    Standing::Late => report.yellow(about, ends(*not_after, facts.now), mend),
                    Standing::Good if *is_self_signed => report.yellow(
                        about,
                        "it is self-signed: no browser trusts it",
                        "replace the files with those of a CA",
                    ),
                    Standing::Good => report.green(about, ends(*not_after, facts.now)),
                }
            }
        }
    }
}

/// Where in its life a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    NotYet,
    Good,
    Late,
    Ending,
    Over,
}

/// A renewal is due with a third of the lifetime left, of a short one with half: less than a quarter is late whoever
/// renews. Long ones are replaced by hand, and three weeks are enough for that.
fn standing(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Standing {
    if now < not_before {
        return Standing::NotYet;
    }
    let Ok(left) = not_after.duration_since(now) else {
        return Standing::Over;
    };
    let life = not_after.duration_since(not_before).unwrap_or_default();
    if left < (life / 10).min(7 * DAY) {
        Standing::Ending
    } else if left < (life / 4).min(21 * DAY) {
        Standing::Late
    } else {
        Standing::Good
    }
}

fn ends(not_after: SystemTime, now: SystemTime) -> String {
    let left = not_after.duration_since(now).unwrap_or_default();
    let (hours, days) = (left.as_secs() / 3600, left.as_secs() / DAY.as_secs());
    let left = if days < 3 {
        format!("{hours} hours")
    } else {
        format!("{days} days")
    };
    format!("{left} left, until {}", mana_certs::text(not_after))
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_late_it_is_follows_from_the_lifetime() {
        let start = SystemTime::UNIX_EPOCH + 10_000 * DAY;
        for (life, age, expected) in [
            (90, 0, Standing::Good),
            (90, 60, Standing::Good),
            (90, 70, Standing::Late),
            (90, 84, Standing::Ending),
            (90, 91, Standing::Over),
            // A year, by hand.
            (365, 300, Standing::Good),
            (365, 345, Standing::Late),
            (365, 359, Standing::Ending),
            // Six days, of which renewal has the last three.
            (6, 4, Standing::Good),
            (6, 5, Standing::Late),
        ] {
            let found = standing(start, start + life * DAY, start + age * DAY);
            assert_eq!(found, expected, "day {age} of {life}");
        }
        assert_eq!(standing(start, start + DAY, start - DAY), Standing::NotYet);
    }
}
