"""The review page: a person confirms or corrects doubtful labels."""
