"""The documents: what their pages have one type works, and the site of them is built.

A new page needs nothing here: its blocks are found and run in order, in one shell, in a town where
nginx:latest, redis:7, busybox, registry.lan/app:1 and the like can be fetched (``town``). What else
it needs, or what no test can run, is said by comments on the page (``docs.tools.blocks``); what it
shows is compared (``steps``). Sphinx wants it in a table of contents of docs/index.md.
"""
