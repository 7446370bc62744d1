"""Reading texts of any language: words, normal forms, numbers, names of languages."""
