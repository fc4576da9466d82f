//! A client that counts what became of every request.
