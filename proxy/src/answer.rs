//! The answers that the proxy gives itself: redirects, challenges and error pages.
//!
//! Owns their heads and bodies. Does not decide which one is due (`edge.rs`, `fault.rs`).

use bytes::Bytes;
use http::{Method, StatusCode, Version};

use crate::fields::{Fields, Known};
use crate::response_head::ResponseHead;

/// What a CA, or whoever asks like one, is told of a token that is not on offer. By these words `doctor` knows that it
/// was the proxy that answered.
pub const NO_CHALLENGE: &str = "no certificate challenge with this token is on offer";

/// A whole response of the proxy's own.
#[derive(Debug)]
pub struct Answer {
    /// The head; `Content-Length` is set. What every response says is added when it is written.
    pub head: ResponseHead,
    /// The body; empty for HEAD.
    pub body: Bytes,
}

/// An error page: JSON if the client prefers it, else HTML. Never cached.
pub fn error_page(
    status: StatusCode,
    reason: &str,
    retry_after_s: Option<u32>,
    request: Option<(&Method, &Fields)>,
    request_id: &str,
) -> Answer {
    let title = title(status);
    let wants_json = request.is_some_and(|(_, fields)| prefers_json(fields));
    let (content_type, body) = if wants_json {
        let page = serde_json::json!({
            "status": status.as_u16(), "title": title, "detail": reason, "request_id": request_id,
        });
        ("application/json", page.to_string())
    } else {
        let page = html(status, title, reason, request_id);
        ("text/html; charset=utf-8", page)
    };
    let mut answer = answer(
        status,
        content_type,
        request.map(|(method, _)| method),
        body,
    );
    let fields = &mut answer.head.fields;
    fields.push(b"Cache-Control", b"no-store");
    if let Some(seconds) = retry_after_s {
        fields.push(b"Retry-After", seconds.to_string().as_bytes());
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        fields.push(b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    answer
}

/// A redirect, with a short body for clients that do not follow it. `location` has a configured host, and a path that
/// passed the head's checks.
pub fn redirect(status: StatusCode, location: &str, method: &Method) -> Answer {
    let body = format!("{location}\n");
    let mut answer = answer(status, "text/plain; charset=utf-8", Some(method), body);
    answer.head.fields.push(b"Location", location.as_bytes());
    answer
}

/// The answer to an HTTP-01 challenge.
///
/// RFC 8555 s8.3: "The path at which the resource is provisioned" answers with the key authorization alone.
pub fn challenge(authorization: &str, method: &Method) -> Answer {
    let body = authorization.to_owned();
    let kind = "application/octet-stream";
    let mut answer = answer(StatusCode::OK, kind, Some(method), body);
    answer.head.fields.push(b"Cache-Control", b"no-store");
    answer
}

fn answer(status: StatusCode, content_type: &str, method: Option<&Method>, body: String) -> Answer {
    let mut head = ResponseHead::new(status, Version::HTTP_11);
    let fields = &mut head.fields;
    fields.push(b"Content-Type", content_type.as_bytes());
    fields.push(b"Content-Length", body.len().to_string().as_bytes());
    Answer {
        head,
        body: body_for(method, body),
    }
}

fn body_for(method: Option<&Method>, body: String) -> Bytes {
    if method == Some(&Method::HEAD) {
        Bytes::new()
    } else {
        Bytes::from(body)
    }
}

fn prefers_json(fields: &Fields) -> bool {
    let accept = fields.get(Known::Accept);
    let Some(accept) = accept.and_then(|value| std::str::from_utf8(value).ok()) else {
        return false;
    };
    let place = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    place("json") < place("text/html")
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

fn html(status: StatusCode, title: &str, reason: &str, id: &str) -> String {
    let code = status.as_u16();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{code} {title}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem;\
         color-scheme:light dark}}small{{opacity:.6}}</style>\
         <h1>{title}</h1><p>{reason}.</p><p><small>{code} &middot; request {id}</small></p></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(accept: Option<&'static str>) -> Answer {
        let mut fields = Fields::default();
        if let Some(accept) = accept {
            fields.push(b"accept", accept.as_bytes());
        }
        let request = Some((&Method::GET, &fields));
        let status = StatusCode::SERVICE_UNAVAILABLE;
        error_page(
            status,
            "no upstream can be reached",
            Some(5),
            request,
            "abc",
        )
    }

    fn value(answer: &Answer, name: &str) -> Option<String> {
        let mut fields = answer.head.fields.iter();
        let field = fields.find(|field| field.name == name.as_bytes())?;
        Some(String::from_utf8(field.value.to_vec()).expect("text"))
    }

    #[test]
    fn the_page_speaks_the_language_that_was_asked_for() {
        let kind = |accept| value(&page(accept), "Content-Type").expect("there");
        assert_eq!(kind(None), "text/html; charset=utf-8");
        assert_eq!(
            kind(Some("text/html,application/json")),
            "text/html; charset=utf-8"
        );
        assert_eq!(kind(Some("application/json, */*")), "application/json");
        assert_eq!(kind(Some("application/problem+json")), "application/json");
    }

    #[test]
    fn an_error_is_never_cached_and_says_when_to_come_back() {
        let page = page(None);
        assert_eq!(value(&page, "Cache-Control").as_deref(), Some("no-store"));
        assert_eq!(value(&page, "Retry-After").as_deref(), Some("5"));
        let length = page.body.len().to_string();
        assert_eq!(value(&page, "Content-Length"), Some(length));
    }

    #[test]
    fn head_gets_the_length_and_no_body() {
        let status = StatusCode::MOVED_PERMANENTLY;
        let answer = redirect(status, "https://mana.so/", &Method::HEAD);
        assert!(answer.body.is_empty());
        assert_ne!(value(&answer, "Content-Length").as_deref(), Some("0"));
    }
}
