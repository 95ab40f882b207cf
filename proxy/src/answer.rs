//! The answers that the proxy gives itself: redirects, challenges and error pages.
//!
//! Owns their heads and bodies. Does not decide which one is due (`edge.rs`, `fault.rs`).

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use pingora::http::ResponseHeader;

use crate::headers::X_REQUEST_ID;

/// What a CA, or whoever asks like one, is told of a token that is not on offer. By these words `doctor` knows that it
/// was the proxy that answered.
pub const NO_CHALLENGE: &str = "no certificate challenge with this token is on offer";

/// A whole response of the proxy's own.
#[derive(Debug)]
pub struct Answer {
    /// The head; `Content-Length` is set.
    pub head: ResponseHeader,
    /// The body; empty for HEAD.
    pub body: Bytes,
}

/// An error page: JSON if the client prefers it, else HTML. Never cached.
pub fn error_page(
    status: StatusCode,
    reason: &str,
    retry_after_s: Option<u32>,
    request_headers: Option<&HeaderMap>,
    method: Option<&Method>,
    request_id: &HeaderValue,
) -> Answer {
    let title = title(status);
    let id = request_id.to_str().unwrap_or_default();
    let wants_json = request_headers.is_some_and(prefers_json);
    let (content_type, body) = if wants_json {
        let page = serde_json::json!({
            "status": status.as_u16(), "title": title, "detail": reason, "request_id": id,
        });
        ("application/json", page.to_string())
    } else {
        ("text/html; charset=utf-8", html(status, title, reason, id))
    };
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    let fields = &mut parts.headers;
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    fields.insert(X_REQUEST_ID, request_id.clone());
    if let Some(seconds) = retry_after_s {
        fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        fields.insert(
            header::ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    Answer {
        head: ResponseHeader::from(parts),
        body: body_for(method, body),
    }
}

/// A redirect, with a short body for clients that do not follow it.
pub fn redirect(
    status: StatusCode,
    location: &str,
    method: &Method,
    request_id: &HeaderValue,
) -> Answer {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    let body = format!("{location}\n");
    let fields = &mut parts.headers;
    // The host is configured and the path passed the head's checks, so this is a valid field value.
    if let Ok(location) = HeaderValue::from_str(location) {
        fields.insert(header::LOCATION, location);
    }
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    fields.insert(X_REQUEST_ID, request_id.clone());
    Answer {
        head: ResponseHeader::from(parts),
        body: body_for(Some(method), body),
    }
}

/// The answer to an HTTP-01 challenge.
///
/// RFC 8555 s8.3: "The path at which the resource is provisioned" answers with the key authorization alone.
pub fn challenge(authorization: &str, method: &Method, request_id: &HeaderValue) -> Answer {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    let fields = &mut parts.headers;
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(authorization.len()),
    );
    fields.insert(X_REQUEST_ID, request_id.clone());
    Answer {
        head: ResponseHeader::from(parts),
        body: body_for(Some(method), authorization.to_owned()),
    }
}

fn body_for(method: Option<&Method>, body: String) -> Bytes {
    if method == Some(&Method::HEAD) {
        Bytes::new()
    } else {
        Bytes::from(body)
    }
}

fn prefers_json(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()) else {
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
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        }
        let id = HeaderValue::from_static("abc");
        let status = StatusCode::SERVICE_UNAVAILABLE;
        error_page(
            status,
            "no upstream can be reached",
            Some(5),
            Some(&headers),
            None,
            &id,
        )
    }

    #[test]
    fn the_page_speaks_the_language_that_was_asked_for() {
        let kind = |accept| page(accept).head.headers[header::CONTENT_TYPE].clone();
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
        assert_eq!(page.head.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(page.head.headers[header::RETRY_AFTER], "5");
        assert_eq!(
            page.head.headers[header::CONTENT_LENGTH],
            page.body.len().to_string()
        );
    }

    #[test]
    fn head_gets_the_length_and_no_body() {
        let id = HeaderValue::from_static("abc");
        let answer = redirect(
            StatusCode::MOVED_PERMANENTLY,
            "https://mana.so/",
            &Method::HEAD,
            &id,
        );
        assert!(answer.body.is_empty());
        assert_ne!(answer.head.headers[header::CONTENT_LENGTH], "0");
    }
}
