; editing.scm: the window of Edit Emoji; window.sh types into it meanwhile.

(define red '(171 35 62))
(define image (new-image 200 200 RGB))
(define ground (active image))
(define layer (draw image "robot" FALSE))

(test "edit window" (lambda ()
  (check "edit-window-returns-the-layer"
         (car (plug-in-moji-edit RUN-INTERACTIVE image layer "" 0 -1 "" "" 0 -1)) layer)
  (check "edit-window-redraws" (pixel layer 0 0) (append red '(255)))
  (check "edit-window-words" (matches? "glad robot" (recipe layer)) #t)
  (check "edit-window-keeps-the-seed" (matches? "\"seed\":42" (recipe layer)) #t)
  (check "edit-window-changed-strength" (matches? "\"strength\":0.65" (recipe layer)) #t)))

(test "last edit" (lambda ()
  (plug-in-moji-edit RUN-WITH-LAST-VALS image ground "" 0 -1 "" "" 0 -1)
  (check "last-edit-on-another-layer" (matches? "glad robot" (recipe ground)) #t)
  (check "last-edit-strength" (matches? "\"strength\":0.65" (recipe ground)) #t)))
(done)
