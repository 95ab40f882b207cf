//! Reads what a site changes in responses: names and values that can be sent, and none that HTTP itself depends on.

use http::header::{HeaderName, HeaderValue};
use mana_control::table::ResponseFields;
use toml::de::DeValue;

use super::section::{Parsed, Section};
use super::values::string;

/// Reads `response_headers` and `remove_response_headers`.
pub(super) fn read_response_fields(section: &mut Section<'_>) -> ResponseFields {
    let set = section.pairs("response_headers", |name, value| {
        Ok((field_name(name)?, field_value(value)?))
    });
    let remove = section.list("remove_response_headers", |value| {
        field_name(string(value)?)
    });
    for (key, count) in [
        ("response_headers", set.len()),
        ("remove_response_headers", remove.len()),
    ] {
        if count > FIELDS_MAX {
            section.fault(key, format!("{count} are too many: at most {FIELDS_MAX}"));
        }
    }
    let mut names: Vec<&HeaderName> = Vec::new();
    for (name, _) in set.iter().map(|at| &at.value) {
        // TOML keys differ by case, names of fields do not.
        if names.contains(&name) {
            section.fault("response_headers", format!("{name} is there twice"));
        }
        names.push(name);
    }
    for name in remove.iter().map(|at| &at.value) {
        if names.contains(&name) {
            let reason =
                format!("{name} is set by response_headers, which replaces what was there");
            section.fault("remove_response_headers", reason);
        }
    }
    ResponseFields {
        set: set.into_iter().map(|at| at.value).collect(),
        remove: remove.into_iter().map(|at| at.value).collect(),
    }
}

fn field_name(text: &str) -> Parsed<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("{text:?} is no name of a field"))?;
    if NOT_CHANGED.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
        return Err(format!(
            "{name} belongs to the connection or says where the body ends; it cannot be changed"
        ));
    }
    match name.as_str() {
        "strict-transport-security" => Err(format!("{name} is set by hsts")),
        "x-request-id" => Err(format!("{name} is set by the proxy")),
        _ => Ok(name),
    }
}

/// Printable ASCII with spaces inside: what every client reads in the same way. RFC 9110 s5.5.
fn field_value(value: &DeValue<'_>) -> Parsed<HeaderValue> {
    let text = string(value)?;
    let is_printable = text.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    if !is_printable || text.trim() != text || text.len() > VALUE_BYTES_MAX {
        return Err(format!(
            "{text:?} is no value of a field: printable ASCII in one line, at most {VALUE_BYTES_MAX} bytes, \
             without spaces at its ends"
        ));
    }
    HeaderValue::from_str(text).map_err(|_| format!("{text:?} is no value of a field"))
}

/// Connection-specific (RFC 9110 s7.6.1), or of the framing and coding of the body.
const NOT_CHANGED: [&str; 11] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "content-encoding",
    "content-range",
    "http2-settings",
    "host",
];
/// Fields of one kind; a page has about ten.
const FIELDS_MAX: usize = 64;
/// The longest policies have some 4 KiB; clients refuse heads of 16 KiB.
const VALUE_BYTES_MAX: usize = 8192;
