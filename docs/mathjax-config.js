window.MathJax = {
  tex: {
    inlineMath: [["$", "$"], ["\\(", "\\)"]],
    displayMath: [["$$", "$$"], ["\\[", "\\]"]],
    processEscapes: true,
    processEnvironments: true,
    tags: "ams"
  },
  options: {
    enableMenu: false,
    ignoreHtmlClass: "md-header|md-search|clipboard-copy-txt|jp-OutputArea-output",
    processHtmlClass: "jp-RenderedMarkdown|jp-RenderedLatex"
  },
  svg: { fontCache: "global" }
};
