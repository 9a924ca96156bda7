"""Experiments: many training runs that answer one question. What is finished is a file and is never done twice."""
