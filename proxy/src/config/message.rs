//! The `[[deploy.message]]` sections: who is told of a deploy.

use toml::de::DeValue;

use super::section::{Parsed, Section, wrong_type};
use super::values;
use crate::messages::{Destination, Event, Kind, Secret, Source};

/// Sections of messages.
const MESSAGES_MAX: usize = 16;

/// Reads all sections of `[[deploy.message]]`. `deploy` is the section that they stand in, for the fault that there are
/// too many.
///
/// None only if a fault was recorded.
pub(super) fn read_all(deploy: &mut Section<'_>) -> Option<Vec<Destination>> {
    let sections = deploy.sections("message");
    if sections.len() > MESSAGES_MAX {
        deploy.fault("message", format!("at most {MESSAGES_MAX} of them"));
    }
    let read: Vec<Option<Destination>> = sections.into_iter().map(read).collect();
    let read: Vec<Destination> = read.into_iter().collect::<Option<_>>()?;
    for (at, destination) in read.iter().enumerate() {
        let is_same =
            |other: &&Destination| (other.kind, &other.url) == (destination.kind, &destination.url);
        if read.iter().take(at).any(|other| is_same(&other)) {
            let reason = format!("two of them go to the same {}", destination.kind);
            deploy.fault("message", reason);
        }
    }
    Some(read)
}

/// Reads one section. None only if a fault was recorded.
pub(super) fn read(mut section: Section<'_>) -> Option<Destination> {
    let kind = section.required("to", r#""discord""#, kind);
    let url = read_url(&mut section);
    let secret = read_secret(&mut section, kind.as_ref().map(|at| at.value));
    let on = section.list_or("on", Event::ALL.to_vec(), event);
    if on.is_empty() && !section.has_filled("on") {
        section.fault("on", "it names no event: leave it out for all of them");
    }
    let ca_root = section.optional("ca_root", values::path);
    section.finish();
    Some(Destination {
        kind: kind?.value,
        url: url?,
        secret: secret?,
        on,
        ca_root: ca_root.map(|at| at.value),
    })
}

fn read_url(section: &mut Section<'_>) -> Option<Source> {
    let inline = section.optional("url", |value| {
        let url = Secret::new(values::string(value)?);
        url.check_url().map_err(|fault| fault.to_string())?;
        Ok(url)
    });
    let file = section.optional("url_file", values::path);
    match (inline, file) {
        (Some(url), None) => Some(Source::Inline(url.value)),
        (None, Some(path)) => Some(Source::File(path.value)),
        (Some(_), Some(_)) => {
            section.fault("url_file", "write url or url_file, not both");
            None
        }
        (None, None) => {
            // A URL that is no good is there, and has its fault.
            if !section.has_filled("url") && !section.has_filled("url_file") {
                section.fault_here(
                    r#"the URL is missing: write url_file = "/etc/mana-proxy/message.url""#,
                );
            }
            None
        }
    }
}

/// None only if a fault was recorded; a kind without a secret has none inside.
fn read_secret(section: &mut Section<'_>, kind: Option<Kind>) -> Option<Option<Source>> {
    let inline = section.optional("secret", |value| {
        let secret = Secret::new(values::string(value)?);
        secret.check_secret().map_err(|fault| fault.to_string())?;
        Ok(secret)
    });
    let file = section.optional("secret_file", values::path);
    let is_written = section.has_filled("secret") || section.has_filled("secret_file");
    let source = match (inline, file) {
        (Some(secret), None) => Some(Source::Inline(secret.value)),
        (None, Some(path)) => Some(Source::File(path.value)),
        (Some(_), Some(_)) => {
            section.fault("secret_file", "write secret or secret_file, not both");
            return None;
        }
        (None, None) if is_written => return None,
        (None, None) => None,
    };
    match (kind, &source) {
        (Some(Kind::Webhook), None) => {
            let reason = r#"the secret is missing: write secret_file = "/etc/mana-proxy/message.key", which signs what is sent"#;
            section.fault_here(reason);
            None
        }
        (Some(kind @ (Kind::Discord | Kind::Slack)), Some(_)) => {
            let key = match section.has_filled("secret") {
                true => "secret",
                false => "secret_file",
            };
            section.fault(key, format!("{kind} has no signatures: leave it out"));
            None
        }
        (Some(_) | None, _) => Some(source),
    }
}

fn kind(value: &DeValue<'_>) -> Parsed<Kind> {
    word(value, &Kind::ALL.map(|kind| (kind.as_str(), kind)))
}

fn event(value: &DeValue<'_>) -> Parsed<Event> {
    word(value, &Event::ALL.map(|event| (event.as_str(), event)))
}

fn word<T: Copy>(value: &DeValue<'_>, all: &[(&str, T)]) -> Parsed<T> {
    let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
    let words = words.join(", ");
    let text = value
        .as_str()
        .ok_or_else(|| wrong_type(value, &format!("one of {words}")))?;
    let found = all.iter().find(|(word, _)| *word == text);
    // What is written is not said: it may be the URL.
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("this is none of {words}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::PathBuf;

    use toml::de::DeTable;

    use super::super::fault::Faults;
    use super::*;

    /// The destinations, and the faults with their lines; the text begins in line 1.
    fn read_text(text: &str) -> (Option<Vec<Destination>>, Vec<String>) {
        let faults = Faults::new("f", text);
        let document = DeTable::parse(text).unwrap();
        let mut root = Section::root(&faults, document.get_ref());
        let mut deploy = root.section("deploy");
        let read = read_all(&mut deploy);
        deploy.finish();
        let found = faults.into_sorted();
        (read, found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn all_destinations_are_read() {
        let (read, faults) = read_text(
            r#"[[deploy.message]]
            to = "discord"
            url_file = "/etc/mana-proxy/discord.url"
            [[deploy.message]]
            to = "slack"
            url = "https://hooks.slack.example/services/T/B/x"
            on = ["failed", "rolled_back"]
            [[deploy.message]]
            to = "webhook"
            url = "http://127.0.0.1:8080/hook"
            secret_file = "/etc/mana-proxy/hook.key"
            ca_root = "/etc/ssl/private-ca.pem"
            [[deploy.message]]
            to = "webhook"
            url = "http://127.0.0.1:8081/hook"
            secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
            "#,
        );
        assert_eq!(faults, [] as [&str; 0]);
        let read = read.unwrap();
        let file = |path: &str| Source::File(PathBuf::from(path));
        let inline = |text: &str| Source::Inline(Secret::new(text));
        let plain = Destination {
            kind: Kind::Discord,
            url: file("/etc/mana-proxy/discord.url"),
            secret: None,
            on: Event::ALL.to_vec(),
            ca_root: None,
        };
        assert_eq!(read[0], plain);
        assert_eq!(read[1].kind, Kind::Slack);
        assert_eq!(
            read[1].url,
            inline("https://hooks.slack.example/services/T/B/x")
        );
        assert_eq!(read[1].on, [Event::Failed, Event::RolledBack]);
        assert_eq!(read[2].secret, Some(file("/etc/mana-proxy/hook.key")));
        assert_eq!(
            read[2].ca_root,
            Some(PathBuf::from("/etc/ssl/private-ca.pem"))
        );
        assert_eq!(
            read[3].secret,
            Some(inline("whsec_MDEyMzQ1Njc4OWFiY2RlZg=="))
        );
        assert_eq!(read.len(), 4);
        assert_eq!(read_text("[deploy]"), (Some(Vec::new()), Vec::new()));
    }

    #[test]
    fn each_fault_is_named_and_no_secret_shown() {
        let good = "to = \"slack\"\nurl = \"https://a.so/\"";
        let hook = "to = \"webhook\"\nurl = \"https://a.so/\"";
        let table: &[(&str, &[&str])] = &[
            (
                "",
                &[
                    "f:1: deploy.message: the URL is missing: write url_file = \"/etc/mana-proxy/message.url\"",
                    "f:1: deploy.message.to: is missing: write to = \"discord\"",
                ],
            ),
            (
                "to = \"https://TOKEN/\"\nurl_file = \"x\"",
                &["f:2: deploy.message.to: this is none of discord, slack, webhook"],
            ),
            (
                "to = 1\nurl_file = \"x\"",
                &[
                    "f:2: deploy.message.to: this is an integer; it has to be one of discord, slack, webhook",
                ],
            ),
            (
                "to = \"slack\"\nurl = \"http://TOKEN.so/\"",
                &[
                    "f:3: deploy.message.url: it has to begin with https://; http:// is for localhost, 127.0.0.0/8 and [::1] alone",
                ],
            ),
            (
                "to = \"slack\"\nurl = \"TOKEN\"",
                &[
                    "f:3: deploy.message.url: it is no URL of at most 2048 bytes: it begins with https:// and a host",
                ],
            ),
            (
                "to = \"slack\"\nurl = \"https://TOKEN@a.so/\"",
                &[
                    "f:3: deploy.message.url: it has a user or a password in it, which is not sent: take them out",
                ],
            ),
            (
                "to = \"slack\"\nurl = [\"TOKEN\"]",
                &["f:3: deploy.message.url: this is an array; it has to be a string"],
            ),
            (
                "to = \"slack\"\nurl_file = \"\"",
                &["f:3: deploy.message.url_file: \"\" is no path"],
            ),
            (
                "to = \"slack\"\nurl = \"https://a.so/\"\nurl_file = \"x\"",
                &["f:4: deploy.message.url_file: write url or url_file, not both"],
            ),
            (
                &format!("{good}\nsecret = \"SECRETSECRETSECRET\""),
                &["f:4: deploy.message.secret: slack has no signatures: leave it out"],
            ),
            (
                &format!("{good}\nsecret_file = \"x\""),
                &["f:4: deploy.message.secret_file: slack has no signatures: leave it out"],
            ),
            (
                &format!("{good}\non = []"),
                &["f:4: deploy.message.on: it names no event: leave it out for all of them"],
            ),
            (
                &format!("{good}\non = [\"done\"]"),
                &[
                    "f:4: deploy.message.on: this is none of started, succeeded, failed, rolled_back",
                ],
            ),
            (
                &format!("{good}\nca_rot = \"x\""),
                &["f:4: deploy.message.ca_rot: unknown key; did you mean ca_root?"],
            ),
            (
                hook,
                &[
                    "f:1: deploy.message: the secret is missing: write secret_file = \"/etc/mana-proxy/message.key\", which signs what is sent",
                ],
            ),
            (
                &format!("{hook}\nsecret = \"SECRET\""),
                &[
                    "f:4: deploy.message.secret: it has to have 16 to 512 bytes: write whsec_ and the output of `openssl rand -base64 32`",
                ],
            ),
            (
                &format!("{hook}\nsecret = \"whsec_SECRETSECRETSECRET.\""),
                &["f:4: deploy.message.secret: what follows whsec_ is no base64"],
            ),
            (
                &format!("{hook}\nsecret = \"SECRETSECRETSECRET\"\nsecret_file = \"x\""),
                &["f:5: deploy.message.secret_file: write secret or secret_file, not both"],
            ),
            (
                &format!("{good}\n[[deploy.message]]\n{good}"),
                &["f:1: deploy.message: two of them go to the same slack"],
            ),
        ];
        for (text, expected) in table {
            let (_, faults) = read_text(&format!("[[deploy.message]]\n{text}"));
            assert_eq!(faults, *expected, "{text}");
        }
        let (_, faults) = read_text("[deploy.message]\nto = \"slack\"");
        assert_eq!(
            faults,
            ["f:1: deploy.message: write [[message]], with two brackets"]
        );
    }

    #[test]
    fn there_are_at_most_sixteen() {
        let many = |count: usize| -> String {
            let section = |n| format!("[[deploy.message]]\nto = \"slack\"\nurl_file = \"{n}\"\n");
            (0..count).map(section).collect()
        };
        assert_eq!(read_text(&many(MESSAGES_MAX)).1, [] as [&str; 0]);
        let (_, faults) = read_text(&many(MESSAGES_MAX + 1));
        assert_eq!(faults, ["f:1: deploy.message: at most 16 of them"]);
    }
}
