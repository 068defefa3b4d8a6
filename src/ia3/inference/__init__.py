"""What an adapter answers: scoring of choices, generation, prediction of whole tables, and how good they are."""
