package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/tools/go/packages"
)

// mutant is one change of the code.
type mutant struct {
	id     int // from 1
	file   string
	line   int
	fn     string // name of the function that is changed
	change string // kind of the change, such as "always true"
	source string // changed part of the source
}

// String returns the mutant as -list prints it: the file, the line and the name.
func (m *mutant) String() string {
	return fmt.Sprintf("%s:%d: %s", m.file, m.line, m.name())
}

// name returns the name of the mutant in equivalent.txt. It has no line number, because that
// changes with the code above.
func (m *mutant) name() string { return m.fn + ": " + m.change + ": " + m.source }

// switches is Go code for the test binary: isMutant reports whether a mutant is chosen.
const switches = `
import (
	"os"
	"strconv"
	"sync"
)

var (
	mutantChosen, _ = strconv.Atoi(os.Getenv("MUTANT"))
	mutantTrace     = os.Getenv("MUTANT_TRACE")
	mutantsSeen     sync.Map
)

func isMutant(id int) bool {
	if mutantTrace != "" {
		if _, seen := mutantsSeen.LoadOrStore(id, true); !seen {
			f, err := os.OpenFile(mutantTrace, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				panic(err)
			}
			f.WriteString(strconv.Itoa(id) + "\n")
			f.Close()
		}
	}
	return id == mutantChosen
}

func eitherMutant[T any](mutated bool, a, b T) T {
	if mutated {
		return a
	}
	return b
}
`

// mutate returns the mutants of some files of a package, or of all if names is empty. sources are
// the texts of the files with all mutants, by path.
func mutate(dir string, names []string) ([]*mutant, map[string]string, error) {
	loaded, err := packages.Load(&packages.Config{
		Dir:  dir,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedDeps,
	}, ".")
	if err != nil {
		return nil, nil, err
	}
	if packages.PrintErrors(loaded) > 0 || len(loaded) != 1 {
		return nil, nil, fmt.Errorf("no package in %s", dir)
	}
	pkg := loaded[0]
	sources := map[string]string{filepath.Join(dir, "zz_mutants.go"): "package " + pkg.Name + "\n" + switches}
	var all []*mutant
	for i, path := range pkg.CompiledGoFiles {
		name := filepath.Base(path)
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		f := &file{pkg: pkg, name: name, text: string(text), all: &all}
		for _, decl := range pkg.Syntax[i].Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
				f.fn = fn.Name.Name
				ast.Walk(visitor{f, nil}, fn.Body)
			}
		}
		sources[path] = f.mutated()
	}
	for _, name := range names {
		if _, ok := sources[filepath.Join(dir, name)]; !ok {
			return nil, nil, fmt.Errorf("no file %s in %s", name, dir)
		}
	}
	return all, sources, nil
}

// file collects the mutants of one source file.
type file struct {
	pkg   *packages.Package
	name  string
	text  string
	fn    string
	all   *[]*mutant
	edits []edit
}

// edit inserts text before and after a part of the file.
type edit struct {
	from, to      int
	before, after string
}

func (f *file) offset(p token.Pos) int { return f.pkg.Fset.Position(p).Offset }

func (f *file) source(n ast.Node) string { return f.text[f.offset(n.Pos()):f.offset(n.End())] }

// around adds a mutant of a node: before and after are inserted around the node. The word MUTANT in
// before is replaced by a call that reports whether the mutant is chosen.
func (f *file) around(n ast.Node, change, before, after string) {
	m := &mutant{
		id: len(*f.all) + 1, file: f.name, line: f.pkg.Fset.Position(n.Pos()).Line, fn: f.fn,
		change: change, source: strings.Join(strings.Fields(f.source(n)), " "),
	}
	*f.all = append(*f.all, m)
	call := fmt.Sprintf("isMutant(%d)", m.id)
	f.edits = append(f.edits, edit{f.offset(n.Pos()), f.offset(n.End()), strings.ReplaceAll(before, "MUTANT", call), after})
}

// mutated returns the text of the file with all its mutants.
func (f *file) mutated() string {
	type insertion struct {
		at, rank int
		text     string
	}
	var insertions []insertion
	for i, e := range f.edits {
		// An edit around a larger part begins first and ends last. Of edits around the same
		// part, the later ones are inside.
		size := (e.to - e.from) * (len(f.edits) + 1)
		insertions = append(insertions, insertion{e.from, 1<<60 - size + i, e.before}, insertion{e.to, -1<<60 + size - i, e.after})
	}
	sort.SliceStable(insertions, func(i, j int) bool {
		a, b := insertions[i], insertions[j]
		return a.at < b.at || a.at == b.at && a.rank < b.rank
	})
	var out strings.Builder
	done := 0
	for _, in := range insertions {
		out.WriteString(f.text[done:in.at])
		out.WriteString(in.text)
		done = in.at
	}
	out.WriteString(f.text[done:])
	return out.String()
}

// visitor visits the nodes of a function and remembers the parent of each.
type visitor struct {
	f      *file
	parent ast.Node
}

// Visit implements ast.Visitor.
func (v visitor) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case nil:
		return nil
	case *ast.GenDecl:
		if n.Tok != token.VAR {
			return nil // constants must stay constant
		}
	case ast.Expr:
		v.f.expression(n, v.parent)
	case ast.Stmt:
		v.f.statement(n, v.parent)
	}
	return visitor{v.f, n}
}

func isBool(t types.Type) bool {
	basic, ok := t.Underlying().(*types.Basic)
	return ok && basic.Info()&types.IsBoolean != 0
}

func isInteger(t types.Type) bool {
	basic, ok := t.Underlying().(*types.Basic)
	return ok && basic.Info()&types.IsInteger != 0
}

// expression adds the mutants of an expression.
func (f *file) expression(e ast.Expr, parent ast.Node) {
	info, ok := f.pkg.TypesInfo.Types[e]
	if !ok || !info.IsValue() || info.Type == nil {
		return
	}
	if isBool(info.Type) {
		f.boolean(e, parent, info.Value != nil)
	}
	if result, ok := parent.(*ast.ReturnStmt); ok && types.Identical(info.Type, types.Universe.Lookup("error").Type()) && !info.IsNil() {
		if slices.Contains(result.Results, e) {
			f.around(e, "returns no error", "eitherMutant(MUTANT, nil, error(", "))")
		}
	}
	binary, ok := e.(*ast.BinaryExpr)
	if !ok || info.Value != nil || !isInteger(f.pkg.TypesInfo.TypeOf(binary.X)) {
		return
	}
	x, y := f.source(binary.X), f.source(binary.Y)
	switch binary.Op {
	case token.ADD, token.SUB:
		other := map[token.Token]string{token.ADD: " - ", token.SUB: " + "}[binary.Op]
		if !hasCalls(binary) {
			f.around(e, "the other sign", "eitherMutant(MUTANT, "+x+other+"("+y+"), (", "))")
		}
	case token.GTR, token.LEQ:
		f.flip(binary, x, y, "+1")
	case token.GEQ, token.LSS:
		if value := f.pkg.TypesInfo.Types[binary.Y].Value; value == nil || constant.Sign(value) > 0 {
			f.flip(binary, x, y, "-1")
		} else {
			f.flip(binary, x, y, "")
		}
	}
}

// flip adds mutants of a comparison: one that is wrong if both sides are equal, and one that is
// wrong if they are one apart. neighbour is "+1" or "-1", or empty for the first mutant only.
func (f *file) flip(e *ast.BinaryExpr, x, y, neighbour string) {
	f.around(e, "wrong if equal", "((MUTANT && ("+x+") == ("+y+")) != (", "))")
	if neighbour != "" {
		f.around(e, "wrong if one apart", "((MUTANT && ("+x+") == ("+y+")"+neighbour+") != (", "))")
	}
}

// boolean adds mutants of a condition, which are always true, always false, or the opposite.
func (f *file) boolean(e ast.Expr, parent ast.Node, isConstant bool) {
	always := func() { f.around(e, "always true", "(MUTANT || (", "))") }
	never := func() { f.around(e, "always false", "(!MUTANT && (", "))") }
	switch p := parent.(type) {
	case *ast.BinaryExpr:
		switch p.Op {
		case token.LAND:
			always()
		case token.LOR:
			never()
		}
	case *ast.IfStmt:
		always()
		never()
	case *ast.ForStmt:
		never()
	case *ast.CaseClause:
		if !isConstant {
			always()
			never()
		}
	case *ast.ReturnStmt, *ast.AssignStmt, *ast.CallExpr, *ast.KeyValueExpr:
		if ident, ok := e.(*ast.Ident); ok && !isConstant {
			if assign, ok := p.(*ast.AssignStmt); ok && slices.Contains(assign.Lhs, ast.Expr(ident)) {
				return
			}
		}
		if assign, ok := p.(*ast.AssignStmt); ok && slices.Contains(assign.Lhs, e) {
			return
		}
		f.around(e, "the opposite", "(MUTANT != (", "))")
	}
}

// statement adds a mutant that leaves out a statement.
func (f *file) statement(s ast.Stmt, parent ast.Node) {
	switch parent.(type) {
	case *ast.BlockStmt, *ast.CaseClause, *ast.CommClause:
	default:
		return
	}
	switch s := s.(type) {
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		if !ok || isLock(call) {
			return
		}
	case *ast.DeferStmt:
		if isLock(s.Call) {
			return
		}
	case *ast.AssignStmt:
		if s.Tok == token.DEFINE || isBlank(s) {
			return
		}
	case *ast.IncDecStmt, *ast.GoStmt:
	default:
		return
	}
	f.around(s, "left out", "if !MUTANT {\n", "\n}")
}

// isLock reports whether a call locks or unlocks a mutex. Such calls have no mutants: without them
// tests hang, or fail only by chance or with the race detector.
func isLock(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	return ok && slices.Contains([]string{"Lock", "Unlock", "RLock", "RUnlock"}, selector.Sel.Name)
}

// isBlank reports whether a statement assigns to blank identifiers only, and calls nothing.
func isBlank(s *ast.AssignStmt) bool {
	for _, left := range s.Lhs {
		if ident, ok := left.(*ast.Ident); !ok || ident.Name != "_" {
			return false
		}
	}
	_, call := s.Rhs[0].(*ast.CallExpr)
	return !call
}

// hasCalls reports whether e has a call that may have a side effect, so that e must not be
// evaluated twice.
func hasCalls(e ast.Expr) (found bool) {
	ast.Inspect(e, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if fn, ok := call.Fun.(*ast.Ident); !ok || !slices.Contains([]string{"len", "cap", "int", "uint64", "min", "max"}, fn.Name) {
				found = true
			}
		}
		return !found
	})
	return found
}
