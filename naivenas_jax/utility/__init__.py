"""What users give as utility, and how scores of tied neurons are combined."""
