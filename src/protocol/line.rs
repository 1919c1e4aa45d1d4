//! CRLF line framing over the caller's buffer.
